"""Methods look the same everywhere and differ in more than colour."""

from itertools import combinations

import matplotlib

from saddlescope.palette import METHOD_STYLES, OTHER, house_style, method_style
from saddlescope.runs import METHODS


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_method_has_a_style_of_its_own():
    assert list(METHOD_STYLES) == list(METHODS)
    styles = [*METHOD_STYLES.values(), OTHER]
    for field in ("color", "marker", "hatch"):
        assert len({getattr(style, field) for style in styles}) == len(styles)
    assert method_style("unheard-of") is OTHER


def test_colours_stand_out_from_light_and_dark_paper():
    for style in METHOD_STYLES.values():
        assert 1.05 / (luminance(style.color) + 0.05) > 2
        assert (luminance(style.dark) + 0.05) / (luminance("#17181a") + 0.05) > 4.5


def test_methods_of_similar_grey_differ_in_marker_and_dashes():
    for a, b in combinations(METHOD_STYLES.values(), 2):
        assert a.marker != b.marker
        if a.dashes == b.dashes:
            assert abs(luminance(a.color) - luminance(b.color)) > 0.1


def test_the_house_style_overrides_a_users_settings_and_leaves_them():
    with matplotlib.rc_context({"font.size": 33, "svg.hashsalt": None}):
        with house_style():
            assert matplotlib.rcParams["font.size"] == 8
            assert matplotlib.rcParams["svg.hashsalt"] == "saddlescope"
        assert matplotlib.rcParams["font.size"] == 33
