"""Videos: the label is the motion and nothing else; files come back as written; nothing vanishes."""

import dataclasses
import os
import pickle
import re
from fractions import Fraction

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from ctlib.core.parallel import in_order
from ctlib.datasets.clips import Draw
from ctlib.datasets.synthetic import video
from ctlib.datasets.video import (
    FrameSettings,
    VideoClips,
    VideoError,
    VideoFiles,
    cache,
    decode,
    generate,
    metadata_accuracy,
    prepare_videos,
    read_video,
    stored_px,
)
from ctlib.datasets.video import cache as on_disk
from ctlib.datasets.video.dataset import held_out

SIZE, FRAMES = 56, 8
LOSSLESS = ("ffv1", "gray")


@pytest.fixture(scope="module")
def photos():
    return video.photographs()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos") / "v"
    generate(root, 5, 0, SIZE, FRAMES)
    return root


def indexed(root, size_px=SIZE, run=in_order, frames_per_s=0.0, max_frames=0, **lists):
    settings = FrameSettings(size_px, frames_per_s, max_frames)
    return prepare_videos(VideoFiles(root, **lists), root.parent / "cache", settings, run)


def clips(root, heldout=False, train=True, seed=0, **kwargs):
    return VideoClips(indexed(root), FRAMES, 48, seed, heldout, train=train, **kwargs)


def write(path, frames, codec=LOSSLESS, rate=25, times=None, hurt=()):
    """Grey frames in the container that the ending names.

    `times` are seconds, one a frame; of the packets `hurt`, the second half is noise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec[0], rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], codec[1]
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=codec[1])
            if times is not None:
                picture.time_base, picture.pts = Fraction(1, 1000), round(times[i] * 1000)
            packets += stream.encode(picture)
        for i, packet in enumerate([*packets, *stream.encode()]):
            container.mux(spoilt(packet) if i in hurt else packet)


def spoilt(packet):
    data = np.frombuffer(bytes(packet), np.uint8).copy()
    data[len(data) // 2 :] = np.random.default_rng(1).integers(0, 256, len(data) - len(data) // 2)
    bad = av.Packet(data.tobytes())
    bad.pts, bad.dts, bad.time_base, bad.stream = packet.pts, packet.dts, packet.time_base, packet.stream
    return bad


def steps(n, first=0, size=SIZE):
    """Frames that say which they are: all pixels of frame i are `first` + 5 i."""
    return np.repeat((first + 5 * np.arange(n)).astype(np.uint8), size * size).reshape(n, size, size)


def problems(index):
    return dict(index.problems().itertuples(index=False))


def inner_difference(a, b):
    return np.abs(a.astype(float) - b)[14:-14, 14:-14].mean()


@pytest.fixture
def lasting(monkeypatch):
    """Discs that are there in every frame, largest in the middle one."""
    monkeypatch.setattr(video, "DISC_FRAMES", (1.0, 1.0))


@pytest.mark.parametrize("name", video.MOTIONS)
def test_each_class_moves_as_its_name_says(name, photos, lasting):
    x, y, grow, turn = video.MOTIONS[name]
    expected = {
        "pan_left": (-1, 0, 0, 0),
        "pan_up": (0, -1, 0, 0),
        "zoom_in": (0, 0, 1, 0),
        "rotate_right": (0, 0, 0, 1),
    }
    assert expected.get(name, (x, y, grow, turn)) == (x, y, grow, turn)
    for seed in range(4):
        frames = video.frames_of(name, photos, FRAMES, SIZE, np.random.default_rng(seed))
        differences = {}
        for other, (dx, dy, dgrow, dturn) in video.MOTIONS.items():
            # undo 3 frames of a motion of middle pace, and see which class it is
            scale, angle = np.exp(3 * 0.04 * dgrow), 3 * 0.07 * dturn
            cos, sin, c = scale * np.cos(angle), scale * np.sin(angle), (SIZE - 1) / 2
            move = np.array([[cos, -sin, c - cos * c + sin * c], [sin, cos, c - sin * c - cos * c]])
            move[:, 2] += 3 * 1.8 * np.array([dx, dy])
            undone = cv2.warpAffine(
                frames[5], move, (SIZE, SIZE), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
            )
            differences[other] = inner_difference(undone, frames[2])
        opposite = tuple(-v for v in video.MOTIONS[name])
        mirrored = next((k for k, v in video.MOTIONS.items() if v == opposite and k != name), None)
        if mirrored:
            assert differences[name] < differences[mirrored], (seed, differences)
        else:
            assert min(differences, key=differences.get) == "static", (seed, differences)


def test_bright_discs_move_over_a_still_background(photos, lasting):
    for seed in range(4):
        frames = video.frames_of("pan_right", photos, 16, SIZE, np.random.default_rng(seed)).astype(float)
        still = np.abs(frames - np.median(frames, 0)).max(0) < 15
        assert 0.2 < still.mean() < 0.95, "background that nothing passes over stays as it is"
        changes = np.abs(np.diff(frames, axis=0)) > 25
        columns = [np.nonzero(change)[1].mean() for change in changes]
        assert columns[-1] - columns[0] > 6
        standing = video.frames_of("static", photos, 2, SIZE, np.random.default_rng(seed)).astype(float)
        discs = standing[0] > np.median(standing) + 60
        assert 0.01 < discs.mean() < 0.2 and np.abs(np.diff(standing, axis=0)).max() < 30


def test_discs_come_and_go(photos):
    frames = video.frames_of("static", photos, 16, SIZE, np.random.default_rng(0)).astype(float)
    shown = (frames > np.median(frames) + 60).mean(axis=(1, 2))
    assert shown.max() > 2 * max(shown[0], shown[-1])


def test_a_single_frame_says_nothing_about_the_class(photos, lasting):
    # the middle of a clip of an odd length is the photograph as placed, whatever the class
    middle = [
        video.frames_of(name, photos, 5, SIZE, np.random.default_rng(7))[2].astype(int)
        for name in video.MOTIONS
    ]
    # noise and contrast are drawn after; they follow the frames' own mean and spread, so allow those
    normal = [(m - m.mean()) / m.std() for m in middle]
    assert min(np.corrcoef(normal[0].ravel(), n.ravel())[0, 1] for n in normal) > 0.97


def test_files_are_lossless(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 40, 40)).astype(np.uint8)
    video.write_video(tmp_path / "a.mkv", frames)
    assert np.array_equal(read_video(tmp_path / "a.mkv", 40), frames)
    wide = np.zeros((3, 40, 60), np.uint8)
    wide[:, :, 10:50] = 200
    video.write_video(tmp_path / "b.mkv", wide)
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
    writer, written = video.write_video, []

    def dies(path, frames):
        if len(written) == 7:
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        written.append(path)
        writer(path, frames)

    monkeypatch.setattr(video, "write_video", dies)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "v", 5, 0, SIZE, FRAMES)
    monkeypatch.setattr(video, "write_video", writer)
    generate(tmp_path / "v", 5, 0, SIZE, FRAMES)
    for path in source.rglob("*"):
        if path.is_file():
            assert (tmp_path / "v" / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_files_of_others_are_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"videos\.json.*name another folder"):
        generate(tmp_path, 2, 0, SIZE, FRAMES)
    generate(tmp_path, 0, 0, SIZE, FRAMES)  # none are asked for: the folder is the user's own
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_held_out_videos_are_others_and_of_every_class(source):
    train, heldout = clips(source), clips(source, heldout=True, train=False)
    assert not set(train.table["path"]) & set(heldout.table["path"])
    assert len(train) == 4 * 9 and len(heldout) == 9 and sorted(heldout.labels) == list(range(9))
    assert train.classes == heldout.classes == sorted(video.MOTIONS)
    assert set(clips(source, heldout=True, seed=1).table["path"]) != set(heldout.table["path"])


def test_videos_exchange_their_classes(source):
    """As many of each class as before, as the seed says; the pictures stay in their places."""
    true, train = clips(source), clips(source)
    train.exchange_labels()
    assert train.labels != true.labels and sorted(train.labels) == sorted(true.labels)
    assert train[5]["label"] == train.labels[5]
    assert torch.equal(train[5]["clip"], true[5]["clip"])
    for seed, same in ((0, True), (1, False)):
        other = clips(source, seed=seed)
        other.exchange_labels()
        assert (other.labels == train.labels) == same


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


# ---- what becomes of files -------------------------------------------------------------

CONTAINERS = {"mkv": LOSSLESS, "mp4": ("libx264", "yuv420p"), "avi": ("mjpeg", "yuvj420p")}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """63 videos in three containers, a broken one, one of 3 frames, and what else lies about."""
    root = tmp_path_factory.mktemp("mixed") / "v"
    rng = np.random.default_rng(0)
    written = {}
    for label, name in enumerate(("dark", "grey", "light")):
        for k in range(21):
            ending = list(CONTAINERS)[k % 3]
            low = 20 + 70 * label
            coarse = rng.integers(low, low + 50, (FRAMES + k % 4, 7, 7)).astype(np.uint8)
            frames = coarse.repeat(8, 1).repeat(8, 2)
            path = f"{name}/{k:02d}.{ending}"
            write(root / path, frames, CONTAINERS[ending])
            written[path] = frames
    write(root / "dark" / "short.mkv", steps(3))
    whole = (root / "grey" / "02.avi").read_bytes()
    (root / "light" / "broken.avi").write_bytes(whole[: len(whole) // 2])
    return root, written


def test_three_containers_are_read_and_what_cannot_be_used_is_said(mixed):
    root, written = mixed
    index = indexed(root)
    assert set(index.table["container"]) >= {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "avi"}
    assert set(index.table["codec"]) >= {"ffv1", "h264", "mjpeg"}
    train, heldout = (VideoClips(index, FRAMES, 48, 0, part, train=False) for part in (False, True))
    assert len(train) + len(heldout) == len(written) == 63
    table = pd.concat([train.table, heldout.table]).set_index("path")
    assert len(table) == 65
    said = table.loc[table["problem"] != "", "problem"].to_dict()
    assert said.keys() == {"dark/short.mkv", "light/broken.avi"}
    assert said["dark/short.mkv"] == f"dark/short.mkv has 3 frames, {FRAMES} are needed."
    broken = said["light/broken.avi"]
    assert table.loc["light/broken.avi", "n_frames"] == 0 and table.loc["dark/short.mkv", "n_frames"] == 3
    assert re.fullmatch(r"light/broken\.avi is cut off: \d of 10 frames are there; copy it again\.", broken)
    for row in index.table[index.table["path"].isin(written)].itertuples():
        frames, expected = index.frames.read(row.content, SIZE), written[row.path]
        assert (row.n_frames, row.width, row.height, row.frames_per_s) == (len(expected), SIZE, SIZE, 25)
        assert row.duration_s == len(expected) / 25
        if row.path.endswith("mkv"):
            assert np.array_equal(frames, expected)
        else:  # lossy: the error of a wrong frame is above 10
            assert np.abs(frames.astype(int) - expected).mean() < 3, row.path


def test_files_that_are_no_videos_are_listed_and_hidden_ones_are_not(tmp_path):
    root = tmp_path / "v"
    for name in ("a", "b"):
        write(root / name / "x.mkv", steps(FRAMES, first=ord(name)))
        write(root / name / "y.mkv", steps(FRAMES, first=ord(name) + 1))
    (root / "a" / "notes.txt").write_text("what was filmed")
    (root / "a" / ".hidden.mkv").write_bytes(b"")
    (root / "a" / "no_ending").write_bytes(b"words")
    (root / "a" / "empty.mp4").write_bytes(b"")
    (root / "b" / "deeper").mkdir()
    (root / "b" / "gone.mkv").symlink_to(tmp_path / "nowhere")
    write(root / "outside.mkv", steps(FRAMES, first=99))
    (root / "b" / "renamed.dat").write_bytes((root / "b" / "x.mkv").read_bytes() + b" ")
    with av.open(str(root / "b" / "zero.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuvj420p"
        container.start_encoding()
    with av.open(str(root / "b" / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    index = indexed(root)
    said = problems(index)
    assert said.pop("b/zero.avi") == "b/zero.avi holds no frame."
    assert said.pop("b/sound.mp4") == "b/sound.mp4 holds no video, only audio."
    assert said.pop("a/notes.txt") == "a/notes.txt is not a video, by its ending .txt."
    assert said.pop("a/no_ending").startswith("a/no_ending cannot be read as a video")
    assert said.pop("a/empty.mp4").startswith("a/empty.mp4 cannot be read as a video")
    assert "inside of the folder of a class" in said.pop("b/deeper")
    assert said.pop("b/gone.mkv") == "b/gone.mkv is a link that leads nowhere."
    assert "outside of the folders" in said.pop("outside.mkv")
    assert said == {}
    train = clips(root, heldout_share=0.0)
    assert len(train) == 5 and train.table["path"].tolist() == index.table["path"].tolist()


def test_a_codec_that_nobody_knows_is_said(tmp_path):
    write(tmp_path / "a.avi", steps(4), CONTAINERS["avi"])
    data = (tmp_path / "a.avi").read_bytes()
    assert data.count(b"MJPG") == 2
    (tmp_path / "a.avi").write_bytes(data.replace(b"MJPG", b"qqqq"))
    with pytest.raises(VideoError, match=r"a\.avi is in a codec that FFmpeg does not know\."):
        read_video(tmp_path / "a.avi", SIZE)


def test_words_in_another_alphabet_do_not_make_a_video_unreadable(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "AEIOU"
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(SIZE, SIZE, "yuvj420p")))
        container.mux(stream.encode())
    assert b"AEIOU" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"AEIOU", b"\xc4\xc9\xce\xd6\xdc"))  # Latin-1
    assert len(read_video(path, SIZE)) == 1


@pytest.mark.parametrize("codec", ["mkv", "avi", "webm", "mpg"])
def test_a_video_that_is_cut_off_is_not_used(tmp_path, codec):
    kinds = {**CONTAINERS, "webm": ("libvpx", "yuv420p"), "mpg": ("mpeg2video", "yuv420p")}
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64)).astype(np.uint8)
    whole = tmp_path / f"whole.{codec}"
    write(whole, noise, kinds[codec])
    assert len(read_video(whole, 56)) == 40
    cut = tmp_path / f"cut.{codec}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    if codec == "mpg":  # its file does not say how long it is, so what is there is a video
        assert 10 < len(read_video(cut, 56)) < 30
    else:
        with pytest.raises(VideoError, match=r"is cut off: .* of .* are there; copy it again|cannot be read"):
            read_video(cut, 56)


@pytest.mark.parametrize("codec", [("mpeg4", "yuv420p"), ("mpeg2video", "yuv420p")])
def test_damaged_frames_are_counted_and_many_are_refused(tmp_path, codec):
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (40, 64, 64)).astype(np.uint8), (0, 0), 2)
    write(tmp_path / "few.mkv", noise, codec, hurt={10})
    facts = decode.decode(tmp_path / "few.mkv", 56, 0, lambda frame: None)
    assert facts.n_damaged == 1 and facts.codec == codec[0]
    write(tmp_path / "many.mkv", noise, codec, hurt={5, 10, 15, 20, 25, 30})
    with pytest.raises(VideoError, match=r"many\.mkv is damaged: 6 of 40 frames could not be decoded"):
        read_video(tmp_path / "many.mkv", 56)


def test_every_frame_at_zero_and_the_nearest_at_a_rate(tmp_path):
    path = tmp_path / "a.mkv"
    write(path, steps(50), rate=25)

    def shown(rate):
        return (read_video(path, SIZE, rate)[:, 0, 0] // 5).tolist()

    assert shown(0) == shown(25) == list(range(50))
    assert shown(5) == list(range(0, 50, 5))
    assert shown(12.5) == list(range(0, 50, 2))
    assert shown(10) == [round(2.5 * k - 1e-6) for k in range(20)]
    times = np.cumsum([0, *[0.02, 0.06] * 15])  # a rate that changes: by time, not by number
    write(path, steps(31), rate=25, times=times)
    expected = [int(np.argmin(np.abs(times - t) + 1e-6 * times)) for t in np.arange(0, times[-1] + 1e-9, 0.1)]
    assert shown(10) == expected
    assert expected != list(range(0, 31, 2))[: len(expected)]


def test_a_video_that_is_slower_than_the_rate_is_reported(tmp_path):
    root = tmp_path / "v"
    for k, name in enumerate(("a", "b")):
        for other in range(2):
            write(root / name / f"{other}.mkv", steps(50, first=k + 2 * other), rate=24)
        write(root / name / "slow.mkv", steps(40, first=10 + k), rate=12)
    index = indexed(root, frames_per_s=25)
    said = problems(index)
    assert said.keys() == {"a/slow.mkv", "b/slow.mkv"}
    assert (
        "is too slow: at 25 frames/s" in said["a/slow.mkv"] and "fewer frames a second" in said["a/slow.mkv"]
    )
    fine = index.table[index.table["problem"] == ""]
    assert fine["n_frames"].tolist() == [52] * 4 and set(fine["frames_per_s"]) == {24}
    shown = index.frames.read(fine["content"].iloc[0], SIZE)[:, 0, 0] // 5
    assert np.unique(shown).tolist() == list(range(50))  # two frames twice, none left out
    assert problems(indexed(root, frames_per_s=12)) == {}


def test_a_video_that_stands_still_for_long_fills_no_disk(tmp_path):
    write(tmp_path / "a.mkv", steps(4), rate=25, times=[0, 0.04, 36000, 36000.04])
    taken = []
    with pytest.raises(VideoError, match=r"stands still for 36000\.0 s between two frames; cut it there"):
        decode.decode(tmp_path / "a.mkv", SIZE, 25, taken.append)
    assert len(taken) < 4 and len(read_video(tmp_path / "a.mkv", SIZE)) == 4


# ---- what is kept ----------------------------------------------------------------------


def counted(monkeypatch):
    decoded = []
    real = on_disk.decode

    def counting(path, *args):
        decoded.append(path.name)
        return real(path, *args)

    monkeypatch.setattr(on_disk, "decode", counting)
    return decoded


@pytest.fixture
def small(tmp_path):
    root = tmp_path / "v"
    for label, name in enumerate(("a", "b")):
        for k in range(4):
            write(root / name / f"{k}.mkv", steps(FRAMES, first=20 * label + k))
    return root


def test_videos_are_decoded_once(small, monkeypatch):
    decoded = counted(monkeypatch)
    first = indexed(small)
    assert len(decoded) == 8
    read = []
    monkeypatch.setattr(cache, "_hashed", lambda root, paths: read.append(paths))
    again = indexed(small)
    assert len(decoded) == 8 and read == []
    pd.testing.assert_frame_equal(first.table, again.table)
    assert again.fingerprint == first.fingerprint
    monkeypatch.undo()
    decoded = counted(monkeypatch)
    indexed(small, size_px=28)
    assert len(decoded) == 8  # another size


def test_a_change_of_bytes_names_or_classes_is_noticed(small, monkeypatch):
    decoded = counted(monkeypatch)
    before = indexed(small)
    decoded.clear()
    os.utime(small / "a" / "0.mkv")
    (small / "a" / "notes.txt").write_text("of no consequence")
    assert indexed(small).fingerprint == before.fingerprint and decoded == []
    (small / "a" / "0.mkv").rename(small / "a" / "new.mkv")
    renamed = indexed(small)
    assert renamed.fingerprint != before.fingerprint and decoded == []
    (small / "a" / "new.mkv").rename(small / "b" / "0x.mkv")
    moved = indexed(small)
    assert moved.fingerprint not in (before.fingerprint, renamed.fingerprint) and decoded == []
    write(small / "b" / "0x.mkv", steps(FRAMES, first=99))
    changed = indexed(small)
    assert changed.fingerprint != moved.fingerprint and decoded == ["0x.mkv"]
    content = changed.table.set_index("path").loc["b/0x.mkv", "content"]
    assert changed.frames.read(content, SIZE)[0, 0, 0] == 99
    assert indexed(small, max_frames=4).fingerprint != changed.fingerprint
    data = bytearray((small / "b" / "0x.mkv").read_bytes())
    data[-1] ^= 1  # of the same size
    (small / "b" / "0x.mkv").write_bytes(data)
    assert indexed(small).fingerprint != changed.fingerprint


def test_a_preparation_that_was_killed_goes_on(small, monkeypatch):
    real, n = on_disk.decode, []

    def dies(path, *args):
        if len(n) == 5:
            args[-1](np.zeros((SIZE, SIZE), np.uint8))  # half a video is written
            raise KeyboardInterrupt
        n.append(path)
        return real(path, *args)

    monkeypatch.setattr(on_disk, "decode", dies)
    with pytest.raises(KeyboardInterrupt):
        indexed(small)
    monkeypatch.setattr(on_disk, "decode", real)
    decoded = counted(monkeypatch)
    index = indexed(small)
    assert len(decoded) == 3
    for row in index.table.itertuples():
        assert np.array_equal(index.frames.read(row.content, SIZE), read_video(small / row.path, SIZE))


def test_frames_that_were_cut_off_are_decoded_again(small, monkeypatch):
    index = indexed(small)
    file = sorted(index.frames.folder.glob("*.u8"))[0]
    file.write_bytes(file.read_bytes()[:-1])
    decoded = counted(monkeypatch)
    again = indexed(small)
    assert len(decoded) == 1
    for row in again.table.itertuples():
        assert np.array_equal(again.frames.read(row.content, SIZE), read_video(small / row.path, SIZE))


def test_it_does_not_matter_where_videos_are_decoded(small):
    def backwards(function, items, what="items"):
        return [function(pickle.loads(pickle.dumps(item))) for item in reversed(items)][::-1]

    here = indexed(small)
    for path in here.frames.folder.iterdir():
        path.unlink()
    there = indexed(small, run=backwards)
    pd.testing.assert_frame_equal(here.table, there.table)


def test_workers_of_a_loader_read_the_same_clips(small):
    train = VideoClips(indexed(small), 5, 48, 0, heldout=False, heldout_share=0.25)
    here = [train[i]["clip"] for i in range(len(train))]  # also maps the files, which no worker inherits
    there = [clip for batch in DataLoader(train, 2, num_workers=2) for clip in batch["clip"]]
    assert len(here) == 6 and all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert torch.equal(pickle.loads(pickle.dumps(train))[2]["clip"], here[2])


def test_long_videos_keep_their_middle(tmp_path):
    root = tmp_path / "v"
    for k, name in enumerate("ab"):
        write(root / name / "long.mkv", steps(30, first=k))
        write(root / name / "short.mkv", steps(4, first=k))
    index = indexed(root, max_frames=10)
    table = index.table.set_index("path")
    assert table["n_frames"].to_dict() == {
        "a/long.mkv": 10,
        "a/short.mkv": 4,
        "b/long.mkv": 10,
        "b/short.mkv": 4,
    }
    assert table.loc["a/long.mkv", "duration_s"] == 30 / 25
    for path, first in (("a/long.mkv", 10), ("a/short.mkv", 0)):
        shown = index.frames.read(table.loc[path, "content"], SIZE)
        assert (shown[:, 0, 0] // 5).tolist() == list(range(first, first + table.loc[path, "n_frames"]))


# ---- clips -----------------------------------------------------------------------------


def test_training_takes_any_run_of_a_long_video_and_evaluation_the_middle(small, tmp_path):
    for name in ("a", "b"):
        write(small / name / "long.mkv", steps(30, first=ord(name)))
    index = indexed(small)
    train = VideoClips(index, 6, 48, 3, heldout=False, heldout_share=0.0)
    usable = train.table[train.table["problem"] == ""]["path"].tolist()
    row = usable.index("a/long.mkv")

    def frames(data, item):
        return ((data[item]["clip"][0, :, 0, 0] * 255).round().int() - ord("a")) // 5

    starts = []
    for epoch in range(60):
        train.set_epoch(epoch)
        shown = frames(train, Draw(row, position=epoch))
        assert (shown.diff() == 1).all()
        starts.append(int(shown[0]))
    assert min(starts) <= 2 and max(starts) >= 22 and len(set(starts)) > 15
    train.set_epoch(7)
    assert int(frames(train, Draw(row, position=7))[0]) == starts[7]
    other = VideoClips(index, 6, 48, 4, heldout=False, heldout_share=0.0)
    other.set_epoch(7)
    assert [int(frames(other, Draw(row, position=p))[0]) for p in range(5)] != [
        int(frames(train, Draw(row, position=p))[0]) for p in range(5)
    ]
    still = VideoClips(index, 6, 48, 3, heldout=False, heldout_share=0.0, train=False)
    assert frames(still, row).tolist() == list(range(12, 18))


def test_clips_are_mirrored_only_where_it_is_asked_for(tmp_path):
    root = tmp_path / "v"
    ramp = np.tile(np.arange(0, 224, 4, dtype=np.uint8), (FRAMES, 56, 1))
    for k, name in enumerate("ab"):
        write(root / name / "0.mkv", ramp + np.uint8(k))
    index = indexed(root)

    def slopes(train, flip):
        data = VideoClips(index, FRAMES, 48, 0, heldout=False, heldout_share=0.0, train=train, flip=flip)
        items = [data[Draw(0, position=p)]["clip"][0] for p in range(40)]
        assert all((item.diff(dim=2) * 255).round().abs().eq(4).all() for item in items)
        return [int((item[0, 0, 1] > item[0, 0, 0]).item()) for item in items]

    assert set(slopes(True, False)) == set(slopes(False, True)) == {1}
    assert 10 <= sum(slopes(True, True)) <= 30


def test_clips_larger_than_stored_frames_are_refused(small):
    with pytest.raises(VideoError, match="57 px: give at least 1 and at most the 56 px"):
        VideoClips(indexed(small), FRAMES, 57, 0, heldout=False)
    assert stored_px(48) == 56


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(VideoError, match="one folder a class"):
        indexed(tmp_path)
    with pytest.raises(VideoError, match="nothing is no folder"):
        indexed(tmp_path / "nothing")


def test_a_class_without_a_video_is_refused(small):
    for path in (small / "b").iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(VideoError, match="no training video that can be used in b; add some"):
        clips(small, heldout_share=0.0)


# ---- lists and groups ------------------------------------------------------------------


@pytest.fixture
def ucf(tmp_path):
    root = tmp_path / "ucf"
    for label, name in enumerate(("Archery", "Tai Chi")):
        for group in range(1, 6):
            for clip in range(1, 4):
                path = root / name / f"v_{name.replace(' ', '')}_g{group:02d}_c{clip:02d}.avi"
                write(path, steps(FRAMES, first=100 * label + 3 * group + clip), ("mjpeg", "yuvj420p"))
    return root


def lines_of(ucf, groups, numbers=None):
    paths = [path.relative_to(ucf).as_posix() for path in sorted(ucf.glob("*/*.avi"))]
    chosen = [path for path in paths if re.search(r"_g(\d+)", path)[1] in groups]
    ends = {path: f" {numbers[path.split('/')[0]]}" if numbers else "" for path in chosen}
    return "".join(f"{path}{end}\n" for path, end in ends.items())


def test_ucf_lists_say_what_is_trained_on_and_what_is_held_out(ucf, tmp_path):
    train, heldout, order = tmp_path / "train.txt", tmp_path / "test.txt", tmp_path / "classInd.txt"
    train.write_text(lines_of(ucf, {"01", "02", "03"}, {"Archery": 2, "Tai Chi": 1}) + "\n")
    heldout.write_text("Archery/missing.avi\n" + lines_of(ucf, {"04"}))
    order.write_text("2 Archery\r\n1 Tai Chi\r\n")
    lists = {"videos_list": str(train), "heldout_list": str(heldout), "class_index": str(order)}
    index = indexed(ucf, **lists)
    assert index.classes == ("Tai Chi", "Archery") and len(index.table) == 25
    assert problems(index) == {
        "Archery/missing.avi": "Archery/missing.avi is missing, but test.txt names it in line 1."
    }
    a, b = (VideoClips(index, FRAMES, 48, 0, part, heldout_share=0.9) for part in (False, True))
    assert len(a) == 18 and len(b) == 6 and sorted(set(b.labels)) == [0, 1]
    assert set(b.table["group"]) == {"v_Archery_g04", "v_TaiChi_g04", "Archery/missing.avi"}
    assert indexed(ucf, videos_list=str(train)).classes == ("Archery", "Tai Chi")
    assert indexed(ucf, videos_list=str(train)).fingerprint != index.fingerprint


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("Archery/a.avi 1\nnonsense 1\n", r"line 2 is 'nonsense 1'; it must be Class/name"),
        ("Archery/a.avi 1\nArchery/../a.avi\n", r"line 2 is 'Archery/../a.avi'; it must be Class/name"),
        ("Archery/a.avi 1\n\nArchery/b.avi 2\n", r"line 3 is .*class 'Archery' is number 1 elsewhere"),
        ("Archery/a.avi\nArchery/a.avi\n", r"line 2 is .*which is also .*line 1; name each video once"),
        ("Archery\\a.avi 1\n", r"line 1 is .*it must be Class/name"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(ucf, tmp_path, text, match):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(VideoError, match=r"list\.txt, " + match):
        indexed(ucf, videos_list=str(tmp_path / "list.txt"))


def test_lists_and_the_class_index_must_agree(ucf, tmp_path):
    train, order = tmp_path / "train.txt", tmp_path / "classInd.txt"
    train.write_text(lines_of(ucf, {"01"}, {"Archery": 1, "Tai Chi": 2}))
    lists = {"videos_list": str(train), "class_index": str(order)}
    for text, match in (
        ("1 Archery\n", "has no class 'Tai Chi'"),
        ("1 Archery\n3 Tai Chi\n", "class 'Tai Chi' is number 3 elsewhere"),
        ("Archery 1\n", r"classInd\.txt, line 1 is 'Archery 1'; it must be a number and a class"),
    ):
        order.write_text(text)
        with pytest.raises(VideoError, match=match):
            indexed(ucf, **lists)
    with pytest.raises(VideoError, match=r"videos_list .*gone\.txt cannot be read"):
        indexed(ucf, videos_list=str(tmp_path / "gone.txt"))
    with pytest.raises(VideoError, match="heldout_list is given without videos_list"):
        indexed(ucf, heldout_list=str(train))


def test_clips_of_a_recording_are_not_divided(ucf):
    index = indexed(ucf)
    for seed in range(5):
        held = held_out(index.table, 0.2, seed)
        sides = index.table.assign(held=held).groupby("group")["held"]
        assert (sides.nunique() == 1).all() and index.table[held].groupby("class").size().tolist() == [3, 3]
    alone = indexed(ucf, groups="")
    divided = alone.table.assign(held=held_out(alone.table, 0.2, 0), group=index.table["group"]).groupby(
        "group"
    )["held"]
    assert (divided.nunique() == 2).any()
    people = indexed(ucf, groups=r"v_\w+_(g\d+)_c\d+")  # the same people in both classes
    held = held_out(people.table, 0.2, 0)
    assert people.table.assign(held=held).groupby("group")["held"].nunique().max() == 1 and held.sum() == 6


def test_the_share_is_that_of_files_rounded():
    for n in range(2, 30):
        rows = pd.DataFrame(
            {"label": [0] * n + [1] * 4, "group": [str(i) for i in range(n + 4)], "listed": ""}
        )
        held = held_out(rows, 0.2, seed=1)
        assert held[:n].sum() == round(0.2 * n) and held[n:].sum() == 1
    rows = pd.DataFrame({"label": 0, "group": [f"{i // 4}" for i in range(40)], "listed": ""})
    assert held_out(rows, 0.2, seed=1).sum() == 8  # two groups of four


def test_groups_with_a_file_in_common_are_one():
    rows = pd.DataFrame({"label": 0, "group": list("ACBCDE"), "content": list("xxyyzw"), "listed": ""})
    for seed in range(20):
        held = held_out(rows, 0.4, seed)
        assert len(set(held[:4])) == 1


def test_the_same_bytes_are_on_one_side(small):
    (small / "a" / "copy.mkv").write_bytes((small / "a" / "1.mkv").read_bytes())
    index = indexed(small)
    assert index.repeated()["path"].tolist() == ["a/1.mkv", "a/copy.mkv"]
    for seed in range(8):
        held = dict(zip(index.table["path"], held_out(index.table, 0.4, seed), strict=True))
        assert held["a/1.mkv"] == held["a/copy.mkv"]


def test_videos_without_labels_lie_anywhere(small):
    (small / "a" / "deeper").mkdir()
    (small / "a" / "1.mkv").rename(small / "a" / "deeper" / "v_x_g01_c01.mkv")
    (small / "a" / "2.mkv").rename(small / "outside.mkv")
    (small / "b" / "notes.txt").write_text("no video")
    index = indexed(small, labelled=False)
    assert index.classes == ("unlabelled",) and set(index.table["label"]) == {0} and len(index.table) == 9
    assert {"a/deeper/v_x_g01_c01.mkv", "outside.mkv"} < set(index.table["path"])
    assert problems(index) == {"b/notes.txt": "b/notes.txt is not a video, by its ending .txt."}
    train, heldout = (VideoClips(index, FRAMES, 48, 0, part, heldout_share=0.25) for part in (False, True))
    assert (len(train), len(heldout)) == (6, 2) and set(train.labels) == {0}
    (small / "list.txt").write_text("b/0.mkv\nb/1.mkv 3\n")
    listed = indexed(small, labelled=False, videos_list=str(small / "list.txt"))
    assert listed.table["path"].tolist() == ["b/0.mkv", "b/1.mkv"] and listed.classes == ("unlabelled",)
    (small / "empty").mkdir()
    with pytest.raises(VideoError, match=r"empty has 1 classes with 0 files .* it must have videos"):
        indexed(small / "empty", labelled=False)


# ---- what files tell -------------------------------------------------------------------


def facts(n, rng, **own):
    base = {"class": np.repeat(["a", "b", "c"], n), "group": [str(i) for i in range(3 * n)], "problem": ""}
    said = {
        "frames_per_s": rng.choice([24.0, 25.0, 30.0], 3 * n),
        "duration_s": rng.uniform(2, 10, 3 * n),
        "width": 320,
        "height": 240,
        "container": rng.choice(["avi", "mkv"], 3 * n),
        "codec": "h264",
    }
    return pd.DataFrame({**base, **said, **own})


def test_a_class_that_its_files_give_away_is_named():
    rng = np.random.default_rng(0)
    rates = np.repeat([24.0, 25.0, 30.0], 20)
    told = metadata_accuracy(facts(20, rng, frames_per_s=rates))
    assert told.accuracy == 1 and told.chance == pytest.approx(1 / 3) and told.n_videos == 60
    table = told.table.set_index("class")
    assert table["frames_per_s"].tolist() == [1, 1, 1]  # also the one in the middle
    assert table["width"].tolist() == table["codec"].tolist() == [0.5] * 3
    assert table["duration_s"].max() < 0.75
    assert "100%" in told.sentence and "frames_per_s tells a (AUROC 1.00)" in told.sentence
    assert "Set frames_per_s" in told.sentence
    lengths = np.concatenate([np.repeat([1.0, 9.9], [9, 11]), np.full(40, 10.0)])  # low, but far apart
    assert metadata_accuracy(facts(20, rng, duration_s=lengths)).table["duration_s"][0] == 1
    kinds = metadata_accuracy(facts(20, rng, container=np.repeat(["avi", "mkv", "mkv"], 20)))
    assert kinds.table.set_index("class").loc["a", "container"] == 1 and kinds.accuracy > 0.5
    assert "container tells a" in kinds.sentence and "Set frames_per_s" not in kinds.sentence


def test_files_that_say_nothing_are_at_chance():
    found = [metadata_accuracy(facts(30, np.random.default_rng(seed))) for seed in range(10)]
    assert abs(np.mean([told.accuracy for told in found]) - 1 / 3) < 0.05
    assert sum("tell nothing" in told.sentence for told in found) >= 9


def test_clips_of_a_recording_do_not_give_the_class_away_by_their_recording():
    rng = np.random.default_rng(0)
    lengths = rng.uniform(2, 10, 18).repeat(5)  # six recordings a class, five clips of one length each
    table = facts(30, rng, duration_s=lengths, frames_per_s=25.0, container="avi")
    recordings = table.assign(group=np.arange(18).repeat(5).astype(str))
    assert metadata_accuracy(table).accuracy > 0.8 and metadata_accuracy(recordings).accuracy < 0.6


def test_few_videos_are_not_judged(mixed):
    few = facts(1, np.random.default_rng(0), frames_per_s=[24.0, 25.0, 30.0])
    told = metadata_accuracy(few)
    assert np.isnan(told.accuracy) and told.sentence == (
        "Too few videos a class (3 of 3 classes) to say whether files tell the class."
    )
    with pytest.raises(ValueError, match="videos of 1 classes"):
        metadata_accuracy(few[:1])
    assert metadata_accuracy(indexed(mixed[0]).table).n_videos == 64


def test_settings_and_groups_that_make_no_sense_are_refused(tmp_path):
    for settings in ((0,), (56, -1.0), (56, float("nan")), (56, 0.0, -1)):
        with pytest.raises(VideoError, match=r"size_px is .* give at least 1"):
            FrameSettings(*settings)
    for groups, match in (("(", "no regular expression"), ("v_.*", "in parentheses")):
        with pytest.raises(VideoError, match=match):
            VideoFiles(tmp_path, groups=groups)
    names = {FrameSettings(56, rate, most).name for rate in (0, 25, 12.5, 29.97) for most in (0, 1)}
    assert len(names) == 8 and all(re.fullmatch(r"[\w.]+", name) for name in names)
    assert {field.name for field in dataclasses.fields(decode.Facts)} < set(cache.TABLE)
