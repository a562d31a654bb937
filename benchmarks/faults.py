"""Deliberate faults of the project, as data: `benchmarks/mutations.py` applies them, one at a time.

A fault exchanges one piece of text of one file. A test looks whether each piece still stands exactly once
in its file: whoever changes such a line gives the fault its new text, or another place of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class FaultError(ValueError):
    """A fault cannot be applied, or a test cannot judge it: one sentence that names the fault."""


@dataclass(frozen=True)
class Fault:
    """One deliberate fault.

    Args:
        name: what goes wrong; no other fault has it.
        file: of the project.
        old: text that stands exactly once in the file.
        new: text in its place.
        why: what the fault would do to a study.
        tests: arguments of pytest: tests that should notice it, run first.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]

    def apply(self, project: Path) -> None:
        """Write the fault into a copy of the project.

        Raises:
            FaultError: the old text does not stand exactly once in the file.
        """
        path = project / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (n := text.count(self.old)) != 1:
            raise FaultError(
                f"fault {self.name!r}: its old text stands {n} times in {self.file}, once is needed; "
                "give the fault the text that is there now."
            )
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


VOLUMES = (
    Fault(
        "volume flipped in z",
        "ctlib/io/volume.py",
        "hu = np.ascontiguousarray(upright(hu, self.grid.orientation))",
        "hu = np.ascontiguousarray(upright(hu[::-1], self.grid.orientation))",
        "head and feet are exchanged: slices get the labels of others",
        ("tests/io/test_volume.py::test_axial_volumes_come_back_upright",),
    ),
    Fault(
        "volume transposed",
        "ctlib/io/geometry.py",
        'if orientation[0] in "AP":\n        planes = planes.swapaxes(-1, -2)',
        'if orientation[0] in "LR":\n        planes = planes.swapaxes(-1, -2)',
        "rows and columns are exchanged: the patient lies on the side",
        ("tests/io/test_volume.py::test_axial_volumes_come_back_upright",),
    ),
    Fault(
        "left and right exchanged in NIfTI",
        "ctlib/io/upright_volume.py",
        "np.array([[1], [-1], [-1]])",
        "np.array([[1], [-1], [1]])",
        "the heart lies to the right in the volumes of one format",
        ("tests/io/test_nifti.py::test_every_orientation_comes_back_upright",),
    ),
    Fault(
        "rescaled twice",
        "ctlib/io/dicom_pixels.py",
        "    _rescale(raw, out, found.slope, found.intercept)",
        "    _rescale(raw, out, found.slope, found.intercept)\n"
        "    _rescale(out, out, found.slope, found.intercept)",
        "HU are 1,024 too low where the file has an intercept",
        ("tests/io/test_volume.py::test_slope_and_intercept_belong_to_the_slice",),
    ),
    Fault(
        "wrong spacing",
        "ctlib/io/geometry.py",
        "spacing_mm=(step, dx, dy) if turned else (step, dy, dx)",
        "spacing_mm=(step, dx, dy)",
        "y and x are exchanged: lengths and areas are wrong where pixels are not square",
        ("tests/io/test_volume.py::test_axial_volumes_come_back_upright",),
    ),
    Fault(
        "spacing not scaled with the matrix",
        "ctlib/datasets/store.py",
        '"spacing_mm": [z, y * scale, x * scale]',
        '"spacing_mm": [z, y, x]',
        "a stored volume claims the spacing of the scanner's matrix: all sizes in mm are too small",
        ("tests/datasets/test_store.py::test_what_is_put_is_read",),
    ),
    Fault(
        "padding that is not air",
        "ctlib/datasets/transforms.py",
        "planes[:begin] = planes[end:] = table[hu.HU_MIN]",
        "planes[:begin] = planes[end:] = 0",
        "in the lung's HU window 0 is below air: the network sees where a volume ends",
        ("tests/datasets/test_clips.py::test_slices_that_a_short_clip_lacks_are_air",),
    ),
    Fault(
        "tail slices dropped",
        "ctlib/datasets/clips.py",
        "for start in range(0, n_slices, length)]",
        "for start in range(0, max(n_slices - length, 0) + 1, length)]",
        "the last slices of a chest are never looked at, nor what is ill in them",
        ("tests/datasets/test_clips.py::test_each_slice_is_in_exactly_one_clip",),
    ),
    Fault(
        "stored slices not compared with their checksum",
        "ctlib/datasets/store_codecs.py",
        "check(self._plain[i].data, self._slices, i)",
        "pass",
        "damage of a disk becomes a result",
        ("tests/datasets/test_store.py::test_the_reader_finds_damage_in_the_slices_it_reads",),
    ),
    Fault(
        "picture mirrored",
        "ctlib/visualization/slices.py",
        "np.round(unit * (GREYS - 1))",
        "np.round(unit[:, ::-1] * (GREYS - 1))",
        "a reader looks for the finding on the wrong side",
        ("tests/visualization/test_figures.py::test_ct_is_shown_in_radiological_convention_and_true_aspect",),
    ),
)

PATIENTS = (
    Fault(
        "an axis that a contract flips stays",
        "ctlib/core/contract.py",
        "return np.flip(seen, tuple(flipped)) if flipped else seen",
        "return seen",
        "weights see a chest upside down or mirrored, and are worse for it",
        ("tests/grid/test_contract.py::test_axes_point_where_the_contract_says",),
    ),
    Fault(
        "the spacing of a contract in the order of our axes",
        "ctlib/core/contract.py",
        "return tuple(at[_line(letter)] for letter in OURS)",
        "return tuple(self.spacing_mm)",
        "slices are stretched where the publisher's axes come in another order",
        ("tests/grid/test_contract.py::test_voxels_become_as_large_as_the_contract_says_and_hu_as_it_says",),
    ),
    Fault(
        "a patient in two splits",
        "ctlib/datasets/splits.py",
        "for patient in patients[start:stop]]",
        "for patient in patients[start : stop + 1]]",
        "what is learnt of a patient helps to recognize the same patient in the test",
        ("tests/datasets/test_splits.py::test_each_patient_lies_in_one_split_and_classes_are_kept",),
    ),
    Fault(
        "a patient in two splits of a file accepted",
        "ctlib/datasets/splits.py",
        'torn = table[splits.transform("nunique") > 1]',
        'torn = table[splits.transform("nunique") > 3]',
        "the same, where splits are those of others",
        ("tests/datasets/test_splits.py::test_bad_files_are_named_without_a_patient",),
    ),
    Fault(
        "training on validation patients",
        "ctlib/datasets/splits.py",
        'train = splits.loc[splits["split"] == "train", "patient_id"]\n    labels = labels',
        'train = splits.loc[splits["split"] != "test", "patient_id"]\n    labels = labels',
        "the patients who choose the epoch are counted among those who are learnt from",
        ("tests/datasets/test_splits.py::test_fractions_are_nested_stratified_and_from_training_only",),
    ),
    Fault(
        "fractions not nested",
        "ctlib/datasets/splits.py",
        "rng = np.random.default_rng(seed)\n    chosen: list[str] = []",
        "rng = np.random.default_rng([seed, round(1000 * fraction)])\n    chosen: list[str] = []",
        "a step from 10 to 50 % exchanges patients too: the curve over fractions has their noise",
        ("tests/datasets/test_splits.py::test_fractions_are_nested_stratified_and_from_training_only",),
    ),
    Fault(
        "folds in one order for every turn",
        "ctlib/datasets/splits.py",
        "(of_patient - tested[0] - turn) % n_folds",
        "(of_patient - tested[0]) % n_folds",
        "a cross-validation tests the same patients in each turn",
        ("tests/datasets/test_cross_validation.py::test_a_turn_is_the_split_of_its_fold",),
    ),
    Fault(
        "videos of one recording on both sides",
        "ctlib/datasets/video/dataset.py",
        'groups = table["group"].astype(str)\n    if',
        "groups = pd.Series([str(i) for i in range(len(table))], index=table.index)\n    if",
        "held-out accuracy measures the recognition of a recording",
        ("tests/datasets/test_video.py::test_clips_of_a_recording_are_not_divided",),
    ),
    Fault(
        "labels inverted",
        "ctlib/datasets/rspect.py",
        'label = (1 - exams["negative"]).astype("Int64")',
        'label = exams["negative"].astype("Int64")',
        "every AUROC is one minus what it should be",
        (
            "tests/datasets/test_rspect_index.py::test_exams_follow_the_contract",
            "tests/datasets/test_cohorts.py::test_rspect_labels_find_their_slices",
        ),
    ),
    Fault(
        "the exam's label from its last clip",
        "ctlib/training/run.py",
        'rows.groupby("study")[source].transform("max")',
        'rows.groupby("study")[source].transform("last")',
        "an exam whose disease lies elsewhere is called well",
        ("tests/grid/test_execute.py::test_clips_are_counted_within_the_study_and_labels_are_the_studys",),
    ),
)

ARMS_OF_A_SEED = (
    "tests/grid/test_execute.py::"
    "test_the_arms_of_a_seed_see_the_same_batches_and_test_patients_are_not_measured"
)

TRAINING = (
    Fault(
        "unseeded order",
        "ctlib/datasets/clips.py",
        "rng = np.random.default_rng([self.seed, _SAMPLE, self.epoch])\n        for position",
        "rng = np.random.default_rng()\n        for position",
        "a run cannot be repeated, and arms of a seed see other batches",
        ("tests/datasets/test_clips.py::test_draws_are_a_function_of_seed_and_epoch",),
    ),
    Fault(
        "the same order in every epoch",
        "ctlib/datasets/clips.py",
        "rng = np.random.default_rng([self.seed, _SAMPLE, self.epoch])\n        for position",
        "rng = np.random.default_rng([self.seed, _SAMPLE])\n        for position",
        "clips that the first epoch does not draw are never learnt from",
        ("tests/datasets/test_clips.py::test_draws_are_a_function_of_seed_and_epoch",),
    ),
    Fault(
        "the same augmentation in every epoch",
        "ctlib/datasets/clips.py",
        "[self.seed, _AUGMENT, int(self._epoch), position]",
        "[self.seed, _AUGMENT, position]",
        "crops and rotations repeat: a network learns them by heart",
        ("tests/datasets/test_clips.py::test_epochs_differ_also_in_workers_that_outlive_them",),
    ),
    Fault(
        "other batches for another init",
        "ctlib/training/finetune.py",
        "n_drawn, run.seed)",
        "n_drawn, run.seed + len(run.init))",
        "two arms of a seed differ by luck and not by their weights alone",
        (ARMS_OF_A_SEED,),
    ),
    Fault(
        "features of other weights are taken",
        "ctlib/training/features.py",
        '"size", "weights", "matrix_px"',
        '"size", "matrix_px"',
        "a head learns from the features of the weights that were there before",
        ("tests/training/test_frozen.py",),
    ),
    Fault(
        "features of other clips",
        "ctlib/training/features.py",
        'return self.values[self.clips.get_indexer(pd.MultiIndex.from_frame(rows[["series_uid", "start"]]))]',
        "return self.values[: len(rows)]",
        "heads learn the labels of other patients",
        ("tests/training/test_frozen.py",),
    ),
    Fault(
        "features that begin again at the first clip",
        "ctlib/training/features.py",
        "clips.iloc[first:]",
        "clips.iloc[: len(clips) - first]",
        "after a killed process all features behind that place are those of other patients",
        (
            "tests/training/test_frozen.py::test_features_are_those_of_the_network_and_a_killed_process_goes_on",
        ),
    ),
    Fault(
        "a head that training patients choose",
        "ctlib/training/heads.py",
        "judged, ready = scored(name, val.rows), scaled(val)",
        "judged, ready = scored(name, train.rows), scaled(train)",
        "the head that knows its patients by heart is taken",
        ("tests/training/test_frozen.py::test_validation_chooses_and_one_class_is_refused",),
    ),
    Fault(
        "a head in bf16",
        "ctlib/models/network.py",
        'else "cpu", enabled=False)',
        'else "cpu", enabled=torch.is_autocast_enabled("cpu"))',
        "hundreds of patients share a score",
        ("tests/training/test_device.py::test_the_head_computes_in_fp32_so_that_no_two_clips_share_a_logit",),
    ),
    Fault(
        "every worker on the first GPU",
        "ctlib/grid/gpus.py",
        "return [Share(gpu.name, part, part * gpu.total_mb / SPARE) for gpu, part in parts] * runs",
        "return [Share(found[0].name, part, part * gpu.total_mb / SPARE) for gpu, part in parts] * runs",
        "seven of eight GPUs are idle, and the first runs out of memory",
        ("tests/grid/test_gpus.py",),
    ),
    Fault(
        "more runs than a GPU holds",
        "ctlib/grid/gpus.py",
        "    if asked > fit:",
        "    if asked > 10 * fit:",
        "runs die of memory that could have been counted",
        ("tests/grid/test_gpus.py",),
    ),
    Fault(
        "another head for another init",
        "ctlib/models/weights/load.py",
        "generator = torch.Generator().manual_seed(_stream(seed, _HEAD_STREAM))",
        "generator = torch.Generator().manual_seed(_stream(seed + len(init.name), _HEAD_STREAM))",
        "two arms of a seed differ by luck and not by their weights alone",
        ("tests/models/test_load.py::test_all_tensors_of_the_backbone_are_loaded_and_the_head_is_new",),
    ),
    Fault(
        "a missing tensor accepted",
        "ctlib/models/weights/ledger.py",
        'names = {"missing": wanted.keys() - given.keys(),',
        'names = {"missing": set(),',
        "part of a pretrained network is random, and nobody knows",
        ("tests/models/test_load.py::test_a_tensor_that_does_not_fit_is_refused_by_name",),
    ),
    Fault(
        "a tensor silently skipped",
        "ctlib/models/weights/load.py",
        "made.load_state_dict(adapted, strict=False)",
        "made.load_state_dict(dict(list(adapted.items())[1:]), strict=False)",
        "part of a pretrained network is random, and nobody knows",
        ("tests/models/test_load.py::test_all_tensors_of_the_backbone_are_loaded_and_the_head_is_new",),
    ),
    Fault(
        "the loss inverted",
        "ctlib/training/losses.py",
        "binary_cross_entropy_with_logits(logits.float().squeeze(1), labels.float())",
        "binary_cross_entropy_with_logits(logits.float().squeeze(1), 1 - labels.float())",
        "a network learns to call the ill well",
        ("tests/training/test_losses.py::test_supervised_losses_equal_their_formulas",),
    ),
    Fault(
        "the epoch chosen on test patients",
        "ctlib/training/finetune.py",
        """in_split["train"]), in_split["val"]""",
        """in_split["train"]), in_split["test"]""",
        "the test flatters every arm",
        ("tests/grid/test_execute.py::test_a_run_folder_holds_what_is_promised_and_is_not_computed_again",),
    ),
    Fault(
        "mean and std of all splits",
        "ctlib/training/finetune.py",
        "_intensity(workspace, run, store, train.reset_index(drop=True)) if",
        "_intensity(workspace, run, store, rows) if",
        "test patients are known before the test",
        (ARMS_OF_A_SEED,),
    ),
    Fault(
        "the weights of the last epoch instead of the best",
        "ctlib/training/loop.py",
        "    load_weights(network.cpu(), folder / WEIGHTS)\n",
        "",
        "test scores are of another epoch than the one that was chosen",
        ("tests/training/test_loop.py::test_the_best_epoch_is_kept_and_the_later_one_wins_a_tie",),
    ),
    Fault(
        "prediction in training mode",
        "ctlib/training/loop.py",
        "    network.eval()\n",
        "",
        "scores depend on dropout and on the other clips of the batch",
        ("tests/training/test_loop.py::test_a_prediction_does_not_depend_on_dropout_or_on_the_batch",),
    ),
    Fault(
        "permuted labels not permuted",
        "ctlib/training/finetune.py",
        "if run.control == PERMUTED_LABELS:",
        "if run.control == PERMUTED_LABELS.upper():",
        "the negative control finds what the runs find",
        (
            "tests/training/test_negative_controls.py"
            "::test_a_run_learns_from_permuted_labels_and_is_judged_by_true_ones",
        ),
    ),
)

RESULTS = (
    Fault(
        "logits rounded",
        "ctlib/training/loop.py",
        "return logits.numpy()",
        "return logits.numpy().round(2)",
        "scores tie: AUROCs move by chance",
        ("tests/training/test_loop.py::test_the_best_epoch_is_kept_and_the_later_one_wins_a_tie",),
    ),
    Fault(
        "scores rounded to 1",
        "ctlib/training/results.py",
        "scores = expit(logits[:, 0].astype(np.float64))",
        "scores = expit(logits[:, 0].astype(np.float32))",
        "of two high logits nobody knows which is higher",
        ("tests/grid/test_execute.py::test_high_logits_give_scores_that_differ",),
    ),
    Fault(
        "lowest instead of highest clip score",
        "ctlib/metrics/exam_scores.py",
        "return np.maximum.reduceat(score, starts)",
        "return np.minimum.reduceat(score, starts)",
        "an exam is as ill as its healthiest clip",
        ("tests/metrics/test_metrics.py::test_study_scores_by_rule_in_any_order_of_rows",),
    ),
    Fault(
        "equal scores in favour of the network",
        "ctlib/metrics/discrimination.py",
        'below = int(np.searchsorted(negatives, positives, side="left").sum())',
        'below = int(np.searchsorted(negatives, positives, side="right").sum())',
        "a network that says nothing has an AUROC of 1",
        ("tests/metrics/test_metrics.py::test_auroc_and_auprc_equal_sklearn",),
    ),
    Fault(
        "wrong degrees of freedom",
        "ctlib/metrics/crossed_ci.py",
        "return _estimate(values, [(between, n_seeds - 1)], shared, patients)",
        "return _estimate(values, [(between, n_seeds)], shared, patients)",
        "with three seeds an interval at 95 % is a quarter too short",
        (
            "tests/metrics/test_crossed_ci.py"
            "::test_where_seeds_alone_vary_they_less_one_are_the_degrees_of_freedom",
        ),
    ),
    Fault(
        "unpaired bootstrap",
        "ctlib/metrics/runs_table.py",
        "self.exams.resampled(self.scores(name), self.draws)",
        "self.exams.resampled(\n                self.scores(name), "
        "self.exams.draw(self._how.n_replicates, np.random.default_rng(len(name[1])))"
        "\n            )",
        "two inits are compared as if on other patients: intervals of differences are far too long",
        ("tests/metrics/test_runs_table.py::test_the_interval_pairs_patients_between_arms",),
    ),
    Fault(
        "draws of its own for each run",
        "ctlib/metrics/runs_table.py",
        "self.exams.resampled(self.scores(name), self.draws)",
        "self.exams.resampled(\n                self.scores(name), "
        "self.exams.draw(self._how.n_replicates, np.random.default_rng(len(self._replicates)))"
        "\n            )",
        "patients seem to average out over seeds: intervals are too short",
        ("tests/metrics/test_runs_table.py::test_seeds_that_agree_leave_the_uncertainty_of_the_patients",),
    ),
    Fault(
        "rows for patients",
        "ctlib/metrics/bootstrap.py",
        'pd.factorize(scores["patient_id"], sort=True)',
        "pd.factorize(np.arange(len(scores)), sort=True)",
        "exams of a patient count as independent: intervals are too short",
        (
            "tests/metrics/test_bootstrap.py"
            "::test_all_exams_of_a_patient_are_drawn_together_and_classes_keep_their_size",
        ),
    ),
    Fault(
        "exams of different folds ranked together",
        "ctlib/metrics/bootstrap.py",
        "[(int(name), np.flatnonzero(fold == name)) for name in np.unique(fold)]",
        "[(int(fold[0]), np.arange(len(fold)))]",
        "a shift between folds counts as errors of the network",
        (
            "tests/metrics/test_bootstrap.py::test_exams_of_different_folds_are_never_ranked_against_each_other",
        ),
    ),
    Fault(
        "correction for many comparisons left out",
        "ctlib/metrics/decisions.py",
        "np.maximum.accumulate(left * p[order])",
        "np.maximum.accumulate(p[order])",
        "of seven networks without an effect one is called better in a third of the studies",
        ("ctlib/metrics/decisions.py",),
    ),
    Fault(
        "arms exchanged in a difference",
        "ctlib/metrics/comparisons.py",
        "return first - (second if paired else second.mean(axis=0, keepdims=True))",
        "return (second if paired else second.mean(axis=0, keepdims=True)) - first",
        "a gain is told as a loss",
        ("tests/metrics/test_runs_table.py::test_effects_are_differences_of_mean_aurocs",),
    ),
    Fault(
        "a figure with exchanged arms",
        "ctlib/visualization/scores.py",
        "for k, (init, look) in enumerate(looks.items()):",
        "for k, (init, look) in enumerate(zip(looks, reversed(looks.values()), strict=True)):",
        "the legend gives the dots of one arm to the other",
        ("tests/visualization/test_figures.py::test_dots_means_and_intervals_have_the_colour_of_their_init",),
    ),
    Fault(
        "a forest's axis with exchanged arms",
        "ctlib/visualization/effects.py",
        'f"{init} − {baseline}"',
        'f"{baseline} − {init}"',
        "a gain is read as a loss",
        ("tests/visualization/test_figures.py::test_the_forest_says_what_the_table_says",),
    ),
)

FILES = (
    Fault(
        "a half-written text file",
        "ctlib/core/workspace.py",
        'temporary.write_text(text, encoding="utf-8")',
        'path.write_text(text, encoding="utf-8")\n        temporary.write_text(text, encoding="utf-8")',
        "a process that is killed leaves half a result, which is read as a whole one",
        ("tests/core/test_workspace.py::test_a_write_that_is_interrupted_leaves_the_old_text",),
    ),
    Fault(
        "a half-written volume",
        "ctlib/datasets/store.py",
        'with replacing(path) as temporary, temporary.open("wb") as file:',
        'with path.open("wb") as file:',
        "the same for the volumes of a store",
        (
            "tests/datasets/test_store.py::test_a_failed_write_leaves_nothing_behind_but_voxels_without_a_record",
        ),
    ),
    Fault(
        "the old record beside new voxels",
        "ctlib/datasets/store.py",
        "self._path(uid, ending).unlink(missing_ok=True)",
        "pass",
        "a volume that was being replaced is read under the record of the one before",
        (
            "tests/datasets/test_store.py::test_a_failed_write_leaves_nothing_behind_but_voxels_without_a_record",
        ),
    ),
    Fault(
        "a claim ignored",
        "ctlib/core/locks.py",
        "if before is not None and not _stale(before, stale_s):",
        "if before is not None and not folder.is_dir():",
        "two processes compute one run and write over each other",
        (
            "tests/grid/test_execute.py::test_a_run_of_another_process_is_left_to_it",
            "tests/core/test_locks.py",
        ),
    ),
    Fault(
        "a lost claim not noticed",
        "ctlib/core/locks.py",
        'return _read(self.path).get("token") == self.token and _highest(self.path.parent) == self.path',
        "return True",
        "a process that was stopped wakes up and writes over the result of another",
        (
            "tests/grid/test_execute.py::test_a_run_of_another_process_is_left_to_it",
            "tests/core/test_locks.py",
        ),
    ),
    Fault(
        "a finished run computed again",
        "ctlib/training/finetune.py",
        "with claimed(folder, lambda: finished(workspace, run)) as claim:",
        "with claimed(folder, lambda: False) as claim:",
        "hours are spent twice, and results change under a reader",
        ("tests/grid/test_execute.py::test_a_run_folder_holds_what_is_promised_and_is_not_computed_again",),
    ),
    Fault(
        "a setting that is no part of the id",
        "ctlib/training/run.py",
        "if (name, value) not in LATER.items()}",
        "if name not in LATER}",
        "a result is taken for that of another experiment",
        ("tests/grid/test_execute.py::test_every_field_is_part_of_the_id",),
    ),
    Fault(
        "changed data not noticed",
        "ctlib/training/run.py",
        '"volumes": volumes})',
        '"volumes": sorted(volumes)})',
        "a result of old volumes is shown beside new ones",
        ("tests/grid/test_execute.py::test_one_voxel_changes_the_runs_of_its_cohort_only",),
    ),
    Fault(
        "a misspelt parameter accepted",
        "ctlib/core/parameters.py",
        "yield from (_unknown(name, key, known) for key in given if key not in known[name])",
        "yield from ()",
        "a value that somebody set is never used",
        ("tests/core/test_parameters.py::test_a_misspelt_key_of_a_file_is_one_problem_not_two",),
    ),
    Fault(
        "a value of another type accepted",
        "ctlib/core/parameters.py",
        "case ast.Name(id=name) if name in _SIMPLE and type(value) is _SIMPLE[name]:",
        "case ast.Name(id=name) if name in _SIMPLE:",
        "the text 'False' is true",
        ("tests/core/test_parameters.py::test_types_are_not_bent",),
    ),
)

READERS = (
    Fault(
        "a name in a reason",
        "ctlib/io/deidentify.py",
        """return f"a text of {len(value)} character{'s' * (len(value) != 1)}\"""",
        "return repr(value)",
        "free text of a header, which may be somebody's name, stands in a table and a report",
        ("tests/io/test_volume.py::test_reasons_tell_nothing_that_could_be_a_name",),
    ),
    Fault(
        "a name in a log",
        "ctlib/io/dicom_bytes.py",
        """        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
""",
        "        with warnings.catch_warnings():\n",
        "pydicom's warnings repeat values of headers: they stand in the output of a notebook",
        ("tests/io/test_privacy.py::test_values_that_pydicom_would_repeat_are_not_heard",),
    ),
    Fault(
        "a file's name as it is",
        "ctlib/core/pseudonyms.py",
        'return self._hashed("path", part, PART_DIGITS) + ending.lower()',
        "return part",
        "folders are called after patients",
        ("tests/core/test_pseudonyms.py", "tests/io/test_privacy.py::test_prepare_tells_no_name"),
    ),
    Fault(
        "pseudonyms without the key",
        "ctlib/core/pseudonyms.py",
        "hmac.digest(self.key, ",
        'hmac.digest(b"", ',
        "whoever tries out names finds the patient of a pseudonym",
        ("tests/core/test_pseudonyms.py::test_pseudonyms_depend_on_key_kind_and_id",),
    ),
    Fault(
        "a network address in a report",
        "ctlib/cli/reports/page.py",
        "found = remote_addresses(text)",
        "found: list[str] = []",
        "opening a report tells another computer that it is read",
        ("tests/cli/test_reports.py::test_a_page_that_would_load_something_is_not_written",),
    ),
    Fault(
        "text shown as markup",
        "ctlib/cli/reports/page.py",
        "html.escape(line, quote=False)",
        "line",
        "what a finding says is not what is shown",
        ("ctlib/cli/reports/page.py",),
    ),
)

FAULTS = (*VOLUMES, *PATIENTS, *TRAINING, *RESULTS, *FILES, *READERS)
"""All of them."""
