"""The command that takes pictures of every screen."""

import pytest

from tests.acceptance.running import ROOT
from tests.screenshots.__main__ import main


@pytest.mark.parametrize("inside", [ROOT, ROOT / "docs" / "pictures"])
def test_pictures_never_go_into_the_repository(
    inside: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and makes neither a folder nor a picture."""
    with pytest.raises(SystemExit) as ended:
        main(["--to", str(inside)])
    assert ended.value.code == 2
    assert "inside the repository" in capsys.readouterr().err
    assert not (ROOT / "docs" / "pictures").exists()
