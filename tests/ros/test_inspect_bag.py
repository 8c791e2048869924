"""The table of a bag."""

from __future__ import annotations

import pytest
from bag_toys import START, TICK, bag_image, drive, picture, twist, write_bag

from lewm_core.types import UserError
from lewm_ros.inspect_bag import inspect_bag


def rows(text):
    """The cells of each line, by topic."""
    return {line.split()[0]: line.split() for line in text.splitlines()[2:]}


def test_topics_types_counts_rates_and_sizes_are_shown(tmp_path):
    text = inspect_bag(write_bag(tmp_path / 'bag', drive(40, 2)))
    assert text.splitlines()[0].startswith(f'{tmp_path / "bag"}: 242 messages')
    found = rows(text)
    assert found['/camera/image_raw'] == ['/camera/image_raw', 'sensor_msgs/msg/Image', '80',
                                          '10.00', 'Hz', '10.100', 's', 'header', '64x64', 'rgb8']
    assert found['/episode'][2] == '2' and found['/odom'][3] == '10.00'


def test_a_topic_without_header_goes_by_log_time_and_a_single_message_has_no_rate(tmp_path):
    messages = [('/go', START + k * TICK // 2, twist(0)) for k in range(5)]
    messages.append(('/see', START, bag_image(START, picture(0), 'rgb8')))
    found = rows(inspect_bag(write_bag(tmp_path / 'bag', messages)))
    assert found['/go'][2:] == ['5', '20.00', 'Hz', '0.050', 's', 'log']
    assert found['/see'][3:5] == ['-', '-']


def test_a_clock_that_goes_back_is_shown(tmp_path):
    again = [(t, log + 10**12, m) for t, log, m in drive(5)]
    assert 'header, 1x backwards' in inspect_bag(write_bag(tmp_path / 'bag', drive(5) + again))


def test_an_image_that_cannot_be_decoded_is_shown_with_the_reason(tmp_path):
    message = bag_image(START, picture(0), 'rgb8')
    message.encoding = '32FC1'
    text = inspect_bag(write_bag(tmp_path / 'bag', [('/depth', START, message)]))
    assert "'32FC1' is not known" in text


def test_a_folder_shows_each_of_its_bags(tmp_path):
    for name in 'ab':
        write_bag(tmp_path / name, drive(3))
    assert inspect_bag(tmp_path).count('messages,') == 2


def test_what_is_no_bag_is_refused(tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        inspect_bag(tmp_path / 'nowhere')
