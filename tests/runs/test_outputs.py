"""A report or a figure replaces its like, and nothing of anybody else's unless told to."""

import pytest
from matplotlib.figure import Figure

from saddlescope.errors import UsageError
from saddlescope.reporting import save_figure
from saddlescope.runs import refuse_foreign_output


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_our_own_pictures_are_replaced(tmp_path, kind):
    figure = Figure()
    figure.subplots().plot([1, 2])
    (path,) = save_figure(figure, tmp_path, "fig4", formats=[kind])
    refuse_foreign_output(path, force=False)


def test_a_page_of_somebody_is_not(tmp_path):
    path = tmp_path / "report.html"
    refuse_foreign_output(path, force=False)
    path.write_text("<html>mine</html>")
    with pytest.raises(UsageError, match=r"report\.html: is there .* --force"):
        refuse_foreign_output(path, force=False)
    refuse_foreign_output(path, force=True)
    path.write_text("")
    refuse_foreign_output(path, force=False)
    with pytest.raises(UsageError, match="is a folder"):
        refuse_foreign_output(tmp_path, force=False)
    refuse_foreign_output("/dev/null", force=True)
