"""The moving picture: small, inside the page, moving, and still for those who want it still."""

import base64
import io
import re

import nbformat
import numpy as np
import pytest
from PIL import Image

from ctlib.cli import reports
from ctlib.visualization import animation
from ctlib.visualization.animation import moving_html

N_FRAMES = 6


def bars(n=3, size=32, n_frames=N_FRAMES):
    """A white bar that goes right, as far as frame and clip say."""
    clips = {}
    for k in range(n):
        clip = np.zeros((n_frames, size, size))
        for i in range(n_frames):
            clip[i, :, (4 * i + 3 * k) % size : (4 * i + 3 * k) % size + 4] = 1
        clips[f"bar_{k}"] = clip
    return clips


def pictures(text):
    """What a page shows, moving and still, from its addresses."""
    img = re.search(r'<img src="data:image/webp;base64,([^"]+)"', text)[1]
    calm = re.search(r'<source media="([^"]+)" srcset="data:image/webp;base64,([^"]+)"', text)
    animation, still = (Image.open(io.BytesIO(base64.b64decode(part))) for part in (img, calm[2]))
    return animation, still, calm[1]


def test_it_moves_as_the_clips_do():
    clips = bars()
    animation, still, media = pictures(moving_html(clips, "Bars go right", "Bars.", frames_per_s=5))
    assert animation.n_frames == N_FRAMES and animation.info["loop"] == 0 and still.n_frames == 1
    assert "prefers-reduced-motion: reduce" in media and "print" in media
    scale = animation.width / (3 * 150 + 2 * 8)
    shown = []
    for i in range(N_FRAMES):
        animation.seek(i)
        shown.append(np.asarray(animation.convert("L"), float))
        assert animation.info["duration"] == 200
        for k, clip in enumerate(clips.values()):
            left = round(k * 158 * scale)
            row = shown[i][round(100 * scale), left : left + round(150 * scale)]
            places = (np.arange(len(row)) + 0.5) / len(row) * 32
            white = clip[i, 0] > 0.5
            assert abs(places[row > 128].mean() - (np.flatnonzero(white).mean() + 0.5)) < 0.5, (i, k)
    middle = np.asarray(still.convert("L"), float)
    assert np.abs(middle - shown[N_FRAMES // 2]).mean() < 5
    assert (shown[0][: round(15 * scale)] < 100).sum() > 50  # names above


def test_a_shorter_clip_rests_on_its_last_frame():
    clips = {**bars(1), "still": np.linspace(0, 1, 2)[:, None, None] * np.ones((2, 32, 32))}
    animation, _, _ = pictures(moving_html(clips, "A bar and a flash", "Two."))
    for i, grey in ((0, 0), (1, 255), (N_FRAMES - 2, 255), (N_FRAMES - 1, 255)):
        animation.seek(i)
        assert abs(np.asarray(animation.convert("L"))[150, -150:].mean() - grey) < 6, i


def test_it_fits_into_a_report_whatever_is_shown():
    rng = np.random.default_rng(0)
    worst = {f"a_class_with_a_long_name_{k}": rng.random((4, 112, 112)) for k in range(9)}
    text = moving_html(worst, "Noise", "Noise.")
    assert len(text.encode()) < 300_000
    many = moving_html(bars(animation.MAX_CLIPS), "Bars", "Many bars.")
    assert len(many.encode()) < 300_000 and pictures(many)[0].width >= 700


def test_what_cannot_be_shown_is_refused(monkeypatch):
    for clips, alt, pace, match in (
        (bars(), " ", 8, "alt is empty"),
        ({}, "x", 8, "0 clips of 0 sizes"),
        ({**bars(1), "other": np.zeros((2, 16, 16))}, "x", 8, "2 clips of 2 sizes"),
        (bars(26), "x", 8, "26 clips .* give 1 to 25"),
        (bars(), "x", 0, "at 0 frames/s"),
    ):
        with pytest.raises(ValueError, match=f"show_moving: .*{match}"):
            moving_html(clips, alt, "x", pace)
    monkeypatch.setattr(animation, "MAX_BYTES", 500)
    with pytest.raises(ValueError, match=r"make a picture of .* bytes, 500 are allowed; give fewer"):
        moving_html(bars(), "x", "x")


def test_words_are_escaped_and_the_same_clips_give_the_same_bytes():
    text = moving_html(bars(1), 'a "quoted" <alt>', "1 < 2 & more")
    assert 'alt="a &quot;quoted&quot; &lt;alt&gt;"' in text and "1 &lt; 2 &amp; more" in text
    assert text == moving_html(bars(1), 'a "quoted" <alt>', "1 < 2 & more")


def test_a_report_takes_it_and_the_index_shows_it():
    text = moving_html(bars(), "Three bars go right", "Three bars.")
    assert reports.remote_addresses(text) == []
    output = nbformat.v4.new_output("display_data", {"text/html": text, "text/plain": "figure"})
    cell = nbformat.v4.new_code_cell("show()", outputs=[output], metadata={"tags": ["headline"]})
    (picture,) = reports.Executed("01_bars", nbformat.v4.new_notebook(cells=[cell])).pictures
    assert picture.address.startswith("data:image/webp;base64,") and picture.alt == "Three bars go right"
    assert not picture.is_chart


@pytest.mark.slow
def test_in_a_browser_without_network_it_moves_unless_less_motion_is_asked_for(tmp_path, browser):
    page = tmp_path / "page.html"
    page.write_text(moving_html(bars(), "Three bars go right", "Three bars."), encoding="utf-8")
    for motion in ("no-preference", "reduce"):
        context = browser.new_context(offline=True, reduced_motion=motion, color_scheme="dark")
        tab, wrong = context.new_page(), []
        tab.on("requestfailed", lambda request, wrong=wrong: wrong.append(request.url[:100]))
        tab.on("console", lambda message, wrong=wrong: wrong.append(message.text))
        tab.goto(page.as_uri())
        picture = tab.locator("figure img")
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
        seen = set()
        for _ in range(6):
            seen.add(picture.screenshot(animations="allow"))
            tab.wait_for_timeout(170)
        assert wrong == [] and (len(seen) == 1 if motion == "reduce" else len(seen) > 1), motion
        context.close()
