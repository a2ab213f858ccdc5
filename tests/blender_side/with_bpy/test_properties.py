"""Blender's properties are written out, as Blender wants it; their defaults and bounds are those of Job."""

import bpy
import pytest

import dreamflow_blender
from dreamflow_blender.contract.options import FIELDS
from dreamflow_blender.translations import CONTEXTS, OWN
from dreamflow_blender.ui.history import DREAMFLOW_PT_history
from dreamflow_blender.ui.refine import DREAMFLOW_PT_refine

SAME = {
    "dreamflow": ("negative", "seed", "preset"),
    "dreamflow_refine": ("negative", "seed", "preset", "keep_uvs"),
}


@pytest.fixture(autouse=True, scope="module")
def registered():
    dreamflow_blender.register()
    yield
    dreamflow_blender.unregister()


@pytest.mark.parametrize("group", SAME)
def test_defaults_bounds_and_choices_are_the_job_s(group):
    properties = getattr(bpy.context.scene, group).bl_rna.properties
    for name in SAME[group]:
        ours, job = properties[name], FIELDS[name]
        assert ours.default == job.default, name
        if "low" in job.metadata:
            assert (ours.hard_min, ours.hard_max) == (job.metadata["low"], job.metadata["high"]), name
        if "choices" in job.metadata:
            assert {item.identifier for item in ours.enum_items} == set(job.metadata["choices"]), name


def test_the_strength_is_the_job_s():
    ours = bpy.context.scene.dreamflow_refine.bl_rna.properties["strength"]
    job = FIELDS["strength"].metadata
    assert (ours.hard_min, ours.hard_max) == pytest.approx((job["low"], job["high"]))


def test_words_that_blender_has_in_another_sense_are_ours():
    """Blender's own table comes first: in French its "Prompt" is a command line's."""
    for group in SAME:
        properties = getattr(bpy.context.scene, group).bl_rna.properties
        assert properties["prompt"].translation_context == OWN == properties["negative"].translation_context
        assert properties["seed"].translation_context == "*"
    for panel in (DREAMFLOW_PT_refine, DREAMFLOW_PT_history):  # "narrow down" in Japanese, "log" in German
        assert panel.bl_translation_context == OWN
    assert OWN in CONTEXTS
