"""Videos: the label is the motion and nothing else; files come back as written; nothing vanishes."""

import cv2
import numpy as np
import pytest

from ctlib import motions
from ctlib.sampling import Draw
from ctlib.videos import VideoClips, VideoError, generate, read_video

SIZE, FRAMES = 56, 8


@pytest.fixture(scope="module")
def photos():
    return motions.photographs()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    generate(root, 5, 0, SIZE, FRAMES)
    return root


def clips(root, heldout=False, train=True, seed=0, **kwargs):
    return VideoClips(root, FRAMES, 48, seed, heldout, train=train, **kwargs)


def inner_difference(a, b):
    return np.abs(a.astype(float) - b)[14:-14, 14:-14].mean()


@pytest.mark.parametrize("name", motions.MOTIONS)
def test_each_class_moves_as_its_name_says(name, photos, monkeypatch):
    monkeypatch.setattr(motions, "OBJECT_SHARE", 0.0)
    x, y, grow, turn = motions.MOTIONS[name]
    expected = {
        "pan_left": (-1, 0, 0, 0),
        "pan_up": (0, -1, 0, 0),
        "zoom_in": (0, 0, 1, 0),
        "rotate_right": (0, 0, 0, 1),
    }
    assert expected.get(name, (x, y, grow, turn)) == (x, y, grow, turn)
    for seed in range(4):
        frames = motions.frames_of(name, photos, FRAMES, SIZE, np.random.default_rng(seed))
        differences = {}
        for other, (dx, dy, dgrow, dturn) in motions.MOTIONS.items():
            # undo 3 frames of a motion of middle pace, and see which class it is
            scale, angle = np.exp(3 * 0.04 * dgrow), 3 * 0.07 * dturn
            cos, sin, c = scale * np.cos(angle), scale * np.sin(angle), (SIZE - 1) / 2
            move = np.array([[cos, -sin, c - cos * c + sin * c], [sin, cos, c - sin * c - cos * c]])
            move[:, 2] += 3 * 1.8 * np.array([dx, dy])
            undone = cv2.warpAffine(
                frames[5], move, (SIZE, SIZE), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
            )
            differences[other] = inner_difference(undone, frames[2])
        opposite = tuple(-v for v in motions.MOTIONS[name])
        mirrored = next((k for k, v in motions.MOTIONS.items() if v == opposite and k != name), None)
        if mirrored:
            assert differences[name] < differences[mirrored], (seed, differences)
        else:
            assert min(differences, key=differences.get) == "static", (seed, differences)


def test_an_object_moves_over_a_still_background(photos, monkeypatch):
    monkeypatch.setattr(motions, "OBJECT_SHARE", 1.0)
    for seed in range(4):
        frames = motions.frames_of("pan_right", photos, 16, SIZE, np.random.default_rng(seed)).astype(float)
        still = np.abs(frames - np.median(frames, 0)).max(0) < 15
        assert 0.2 < still.mean() < 0.95, "background that nothing passes over stays as it is"
        changes = np.abs(np.diff(frames, axis=0)) > 25
        columns = [np.nonzero(change)[1].mean() for change in changes]
        assert columns[-1] - columns[0] > 6


def test_a_single_frame_says_nothing_about_the_class(photos):
    # the middle of a clip of an odd length is the photograph as placed, whatever the class
    middle = [
        motions.frames_of(name, photos, 5, SIZE, np.random.default_rng(7))[2].astype(int)
        for name in motions.MOTIONS
    ]
    # noise and contrast are drawn after; they follow the frames' own mean and spread, so allow those
    normal = [(m - m.mean()) / m.std() for m in middle]
    assert min(np.corrcoef(normal[0].ravel(), n.ravel())[0, 1] for n in normal) > 0.97


def test_files_are_lossless(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 40, 40)).astype(np.uint8)
    motions.write_video(tmp_path / "a.mkv", frames)
    assert np.array_equal(read_video(tmp_path / "a.mkv", 40), frames)
    wide = np.zeros((3, 40, 60), np.uint8)
    wide[:, :, 10:50] = 200
    motions.write_video(tmp_path / "b.mkv", wide)
    assert read_video(tmp_path / "b.mkv", 20).shape == (3, 20, 20)
    assert read_video(tmp_path / "b.mkv", 20).min() == 200


def test_generation_is_a_function_of_its_parameters(source, tmp_path):
    first = source / "zoom_in" / "0003.mkv"
    before = first.stat().st_mtime_ns
    generate(source, 5, 0, SIZE, FRAMES)
    assert first.stat().st_mtime_ns == before
    generate(tmp_path / "v", 4, 1, SIZE, FRAMES)
    other = read_video(tmp_path / "v" / "zoom_in" / "0003.mkv", SIZE)
    assert not np.array_equal(other, read_video(first, SIZE))
    generate(tmp_path / "v", 5, 0, SIZE, FRAMES)  # other parameters: written anew
    for path in source.rglob("*.mkv"):
        assert (tmp_path / "v" / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_an_interrupted_generation_is_completed(source, tmp_path, monkeypatch):
    writer, written = motions.write_video, []

    def dies(path, frames):
        if len(written) == 7:
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        written.append(path)
        writer(path, frames)

    monkeypatch.setattr(motions, "write_video", dies)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "v", 5, 0, SIZE, FRAMES)
    monkeypatch.setattr(motions, "write_video", writer)
    generate(tmp_path / "v", 5, 0, SIZE, FRAMES)
    for path in source.rglob("*"):
        if path.is_file():
            assert (tmp_path / "v" / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_files_of_others_are_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"videos\.json.*name another folder"):
        generate(tmp_path, 2, 0, SIZE, FRAMES)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_held_out_videos_are_others_and_of_every_class(source):
    train, heldout = clips(source), clips(source, heldout=True, train=False)
    assert not set(train.table["path"]) & set(heldout.table["path"])
    assert len(train) == 4 * 9 and len(heldout) == 9 and sorted(heldout.labels) == list(range(9))
    assert train.classes == heldout.classes == sorted(motions.MOTIONS)
    assert set(clips(source, heldout=True, seed=1).table["path"]) != set(heldout.table["path"])


def test_items_are_crops_that_depend_on_seed_epoch_and_position(source):
    train = clips(source)
    whole = read_video(source / train.table["path"][3], SIZE)
    item = train[Draw(3, position=11)]
    clip = item["clip"].numpy()
    assert clip.shape == (1, FRAMES, 48, 48) and clip.dtype == np.float32 and item["label"] == train.labels[3]
    cuts = [(whole[:, t : t + 48, w : w + 48] / np.float32(255), (t, w)) for t in range(9) for w in range(9)]
    assert any(np.array_equal(clip[0], cut) for cut, _ in cuts)  # a crop, never flipped
    again = clips(source)[Draw(3, position=11)]["clip"].numpy()
    assert np.array_equal(clip, again)
    others = {train[Draw(3, position=p)]["clip"].numpy().tobytes() for p in range(12)}
    assert len(others) > 6
    epochs = set()
    for epoch in range(6):
        train.set_epoch(epoch)
        epochs.add(train[3]["clip"].numpy().tobytes())
    assert len(epochs) > 3
    centre = clips(source, train=False)[3]["clip"].numpy()
    assert np.array_equal(centre[0], whole[:, 4:52, 4:52] / np.float32(255))


def test_intensity_is_that_of_the_pixels(source):
    train = clips(source, train=False)
    pixels = np.stack([read_video(source / path, SIZE) for path in train.table["path"]]) / 255
    assert train.intensity() == pytest.approx((pixels.mean(), pixels.std()), abs=1e-6)


def test_short_and_broken_files_are_listed(source, tmp_path):
    root = tmp_path / "v"
    for label in ("a", "b"):
        for k in range(3):
            (root / label).mkdir(parents=True, exist_ok=True)
            motions.write_video(root / label / f"{k}.mkv", np.full((FRAMES + k, 56, 56), 10 * k, np.uint8))
    motions.write_video(root / "a" / "short.mkv", np.zeros((3, 56, 56), np.uint8))
    (root / "b" / "broken.mkv").write_bytes(b"no video")
    (root / "b" / "notes.txt").write_text("not listed: no video by its name")
    served = clips(root, heldout_share=0.0)
    problems = served.table.set_index("path")["problem"]
    assert len(served) == 6 and len(problems) == 8 and (problems != "").sum() == 2
    assert (
        "3 frames, 8 are needed" in problems["a/short.mkv"] and "cannot be read" in problems["b/broken.mkv"]
    )
    for path in (root / "b").glob("?.mkv"):
        path.unlink()
    with pytest.raises(VideoError, match="no training video that can be used in b"):
        clips(root, heldout_share=0.0)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(VideoError, match="one folder a class"):
        clips(tmp_path)
