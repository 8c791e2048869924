"""The base class: transitions, failures, signals, diagnostics."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from std_msgs.msg import String

from lewm_core.types import UserError
from lewm_ros.node import WARN, ManagedNode

SUCCESS = TransitionCallbackReturn.SUCCESS


class Toy(ManagedNode):
    """Writes down what happens to it; `fails` names the step that raises."""

    def __init__(self, fails: str = '', error: type = UserError, **kwargs):
        super().__init__('toy', **kwargs)
        self.fails, self.error, self.steps = fails, error, []

    def _step(self, name):
        self.steps.append(name)
        if self.fails == name:
            raise self.error(f'{name} is broken; mend it')

    def configure(self):
        self._step('configure')

    def activate(self):
        self._step('activate')

    def deactivate(self):
        self._step('deactivate')

    def cleanup(self):
        self._step('cleanup')

    def make_safe(self):
        self._step('make_safe')

    def diagnose(self):
        return WARN, 'all is toys', {'ratio': 0.5, 'count': 3}

    @property
    def state(self):
        return self._state_machine.current_state[1]


def test_autostart_configures_and_activates(host):
    toy = host.add(Toy)
    assert toy.state == 'active' and toy.steps == ['configure', 'activate']


def test_without_autostart_the_node_waits_unconfigured(host):
    toy = host.add(Toy, parameters={'autostart': False})
    assert toy.state == 'unconfigured' and toy.steps == []


@pytest.mark.parametrize('error', [UserError, RuntimeError])
def test_a_failing_configure_leaves_the_node_unconfigured_and_cleaned_up(host, error):
    toy = host.add(Toy, fails='configure', error=error)
    assert toy.state == 'unconfigured' and toy.exit_code == 1
    assert toy.steps == ['configure', 'cleanup']


def test_a_failing_activate_is_made_safe_and_stays_inactive(host):
    toy = host.add(Toy, fails='activate')
    assert toy.state == 'inactive' and toy.exit_code == 1
    assert toy.steps == ['configure', 'activate', 'make_safe', 'deactivate']


def test_deactivate_makes_safe_first(host):
    toy = host.add(Toy)
    assert host.call(toy.trigger_deactivate) == SUCCESS
    assert toy.steps[2:] == ['make_safe', 'deactivate'] and not toy.active


def test_shutdown_makes_safe_first_and_cleans_up(host):
    toy = host.add(Toy)
    host.call(toy.trigger_shutdown)
    assert toy.state == 'finalized' and toy.steps[2:] == ['make_safe', 'deactivate', 'cleanup']


def test_a_failing_deactivate_is_made_safe_and_ends_unconfigured(host):
    toy = host.add(Toy, fails='deactivate')
    assert host.call(toy.trigger_deactivate) != SUCCESS
    assert toy.state == 'unconfigured'
    assert toy.steps[2:] == ['make_safe', 'deactivate', 'cleanup']


def test_a_failing_make_safe_does_not_keep_the_rest_from_ending(host):
    toy = host.add(Toy, fails='make_safe')
    host.call(toy.trigger_shutdown)
    assert toy.steps[2:4] == ['make_safe', 'deactivate'] and 'cleanup' in toy.steps


def test_a_node_can_go_round_its_lifecycle_twice(host):
    toy = host.add(Toy)
    for _ in range(2):
        for step in ('deactivate', 'cleanup', 'configure', 'activate'):
            assert host.call(getattr(toy, f'trigger_{step}')) == SUCCESS
    assert toy.state == 'active'


def test_diagnostics_carry_level_sentence_and_values(host):
    heard = []
    ear = host.add(lambda **kw: Node('ear', **kw))
    host.call(lambda: ear.create_subscription(DiagnosticArray, '/diagnostics', heard.append, 10))
    host.add(Toy, namespace='left')
    assert host.wait_for(lambda: heard)
    status = heard[0].status[0]
    assert status.name == 'left/toy' and status.level == WARN
    assert status.message == 'all is toys'
    assert {v.key: v.value for v in status.values} == {'ratio': '0.5', 'count': '3'}


CHILD = textwrap.dedent('''
    import sys
    from std_msgs.msg import String
    from lewm_core.types import UserError
    from lewm_ros.node import ManagedNode, flush, run_node

    class Child(ManagedNode):
        def __init__(self):
            super().__init__('child')
            if 'construct' in sys.argv:
                raise UserError('construct=1 is wrong; leave it out')
            self.pub = self.create_publisher(String, 'last', 10)
            self.steady_timer(0.02, self.tick)

        def tick(self):
            if self.active:
                self.pub.publish(String(data='driving'))
                if 'callback' in sys.argv and self.pub.get_subscription_count():
                    raise RuntimeError('the callback broke')

        def configure(self):
            if 'configure' in sys.argv:
                raise UserError('checkpoint=x is not a file; give one')
            if 'bug' in sys.argv:
                raise KeyError('surprise')

        def make_safe(self):
            self.pub.publish(String(data='safe'))
            flush(self.pub)

    sys.exit(run_node(Child, sys.argv[2:]))
''')


def _child(environment, *words):
    return subprocess.Popen([sys.executable, '-c', CHILD, *words], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_safe_state_out_last(host, child_environment, number):
    heard = []
    ear = host.add(lambda **kw: Node('ear', **kw))
    host.call(lambda: ear.create_subscription(String, 'last', lambda m: heard.append(m.data), 10))
    child = _child(child_environment, 'run')
    try:
        assert host.wait_for(lambda: len(heard) > 3, 30)
        child.send_signal(number)
        assert child.wait(20) == 0, child.communicate()
        assert host.wait_for(lambda: heard[-1] == 'safe')
    finally:
        child.kill()
        child.communicate()


def test_a_broken_callback_lets_the_safe_state_out_last_and_exits_with_1(host, child_environment):
    heard = []
    ear = host.add(lambda **kw: Node('ear', **kw))
    host.call(lambda: ear.create_subscription(String, 'last', lambda m: heard.append(m.data), 10))
    child = _child(child_environment, 'callback')
    output, _ = child.communicate(timeout=30)
    assert child.returncode == 1 and 'the callback broke' in output
    assert host.wait_for(lambda: heard and heard[-1] == 'safe')


@pytest.mark.parametrize('word, said, traceback', [
    ('configure', 'configuring failed: checkpoint=x is not a file; give one', False),
    ('construct', 'construct=1 is wrong; leave it out', False),
    ('bug', 'KeyError', True)])
def test_a_failing_start_says_why_and_exits_with_1(child_environment, word, said, traceback):
    child = _child(child_environment, word)
    output, _ = child.communicate(timeout=30)
    assert child.returncode == 1 and said in output
    assert ('Traceback' in output) == traceback


def test_a_bad_ros_argument_is_one_line_and_not_0(child_environment):
    child = _child(child_environment, 'run', '--ros-args', '-p', 'nonsense')
    output, _ = child.communicate(timeout=30)
    assert child.returncode == 2 and 'nonsense' in output and 'Traceback' not in output


def test_a_switch_of_ros_that_is_no_switch_is_one_line(child_environment):
    """use_sim_time:=1, which rclpy itself refuses while the node is made, was a traceback."""
    child = _child(child_environment, 'run', '--ros-args', '-p', 'use_sim_time:=1')
    output, _ = child.communicate(timeout=30)
    assert child.returncode == 1 and "'use_sim_time'" in output and 'Traceback' not in output
