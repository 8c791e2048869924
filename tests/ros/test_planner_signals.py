"""A driving planner in a process of its own, ended by signals: the safe action goes out last."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ros_toys import ToyRobot, image

TICK = 100_000_000
START = 1_000_000_000_000
ROOT = Path(__file__).resolve().parents[2]

CHILD = textwrap.dedent(f'''
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from ros_toys import ToyAgent
    from lewm_core.robot import RobotSpec
    from lewm_ros.node import run_node
    from lewm_ros.planner_node import PlannerNode
    spec = RobotSpec.load({str(ROOT / 'config' / 'robot' / 'two_room.yaml')!r})
    agent = ToyAgent(spec, horizon=40)
    if sys.argv[1] == 'slow':
        plan = agent.plan
        def slow(frame):
            result = plan(frame)
            if agent.plans > 2:
                agent.gate.clear()
            return result
        agent.plan = slow
    sys.exit(run_node(lambda: PlannerNode(agent=agent), sys.argv[2:]))
''')


def _heed_hangups():
    """Under `nohup make test` children are born to ignore SIGHUP, and the node honours that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize('number, pace', [
    (signal.SIGINT, 'quick'), (signal.SIGTERM, 'quick'), (signal.SIGINT, 'slow'),
    (signal.SIGTERM, 'slow'),
    (signal.SIGHUP, 'quick')])  # the terminal has gone, and with it the ssh session
def test_the_safe_action_is_the_last_command_out(host, child_environment, number, pace):
    robot = host.add(ToyRobot)
    host.call(lambda: robot.goal.publish(image(START, 9)))
    frames = iter(range(10**6))
    child = subprocess.Popen([sys.executable, '-c', CHILD, pace, '--ros-args', '-p',
                              'plan_deadline_s:=0.02'], env=child_environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             preexec_fn=_heed_hangups)
    try:
        assert host.wait_for(lambda: robot.accepted, 30), child.poll()
        timer = host.call(lambda: robot.create_timer(0.02, lambda: robot.camera.publish(
            image(START + next(frames) * TICK))))
        assert host.wait_for(lambda: len(robot.heard) > 20 and robot.values[-1] != (0.0, 0.0), 20)
        child.send_signal(number)
        assert child.wait(20) == 0, child.communicate()
        host.call(timer.cancel)
        assert host.wait_for(lambda: robot.values[-1] == (0.0, 0.0))
        assert robot.values[-2] != (0.0, 0.0)  # it was driving until then
    finally:
        child.kill()
        child.communicate()


def test_a_planner_that_cannot_configure_exits_with_1_and_one_sentence(child_environment):
    done = subprocess.run([sys.executable, '-m', 'lewm_ros.planner_node', '--ros-args', '-p',
                           'checkpoint:=missing.safetensors'], env=child_environment, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 1
    assert 'missing.safetensors' in done.stderr and 'Traceback' not in done.stderr
