from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_core.data.inputs import escapes
from gsr_core.readers.shown import shown_images


@settings(deadline=None, max_examples=300)
@given(paths=st.lists(st.text("a./\\:C ", max_size=7) | st.none(), min_size=1, max_size=6))
def test_a_path_that_leaves_the_folder_is_left_out_and_every_other_is_kept(paths, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    images, notes = shown_images(paths, folder, where="the folder")
    kept = ["" if not path or escapes(path) else path for path in paths]
    assert (images is None) == (not any(kept))
    if images is not None:
        assert [images.name(row) for row in range(len(paths))] == kept
    outside = [path for path in paths if path and escapes(path)]
    assert len(notes) == bool(outside)
    if outside:
        assert f"{len(outside)} (first: {outside[0]})" in notes[0]
