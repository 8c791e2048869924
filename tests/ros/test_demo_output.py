"""What the demo does with a folder that is there already."""

from __future__ import annotations

import pytest

from lewm_core.types import UserError
from lewm_ros.demo import prepare_output


def make_demo(folder, finished):
    (folder / 'logs').mkdir(parents=True)
    (folder / 'old').touch()
    if finished:
        (folder / 'report.json').touch()
    return folder


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_folder_that_holds_no_demo_is_never_emptied(tmp_path, overwrite):
    """overwrite=true once removed whatever `output` named, a home folder too."""
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(UserError, match='holds no demo; give another folder'):
        prepare_output(tmp_path, overwrite)
    assert (tmp_path / 'thesis.tex').exists()


def test_a_finished_demo_is_replaced_only_on_request(tmp_path):
    folder = make_demo(tmp_path / 'demo', finished=True)
    with pytest.raises(UserError, match='finished demo.*overwrite=true'):
        prepare_output(folder, False)
    assert (folder / 'old').exists()
    prepare_output(folder, True)
    assert list(folder.iterdir()) == []


def test_an_unfinished_demo_is_found_and_begun_afresh(tmp_path, capsys):
    folder = make_demo(tmp_path / 'demo', finished=False)
    prepare_output(folder, False)
    assert 'found an unfinished demo' in capsys.readouterr().out
    assert list(folder.iterdir()) == []
