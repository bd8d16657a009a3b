"""What the network will see of the images, before the import."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import streamlit as st

from gsr_core.ingest.plan import BackboneChoice
from gsr_core.ingest.sight import Sight, crop_warning, image_preprocessing, sights
from gsr_core.views.charts import percent, plain, show_error
from gsr_core.views.import_source import FAILURES, Reading

if TYPE_CHECKING:  # It brings torchvision, which no page needs before this.
    from gsr_core.features.preprocessing import ImagePreprocessing

__all__ = ["network_sight"]


def network_sight(reading: Reading, choice: BackboneChoice) -> None:
    """Draw some images as they are and as the network will see them; warn if much is cut away.

    A network that says its own preprocessing only when it is loaded is loaded only when asked for.

    Args:
        reading: The images.
        choice: The network.
    """
    key = json.dumps(choice.model_dump(mode="json"), sort_keys=True)
    try:
        preprocessing = image_preprocessing(choice)
        if preprocessing is None:
            if st.button(
                "Show what the network sees",
                key="import sight",
                help="Loads the network to ask how it prepares images.",
            ):
                st.session_state["import sight of"] = key
            if st.session_state.get("import sight of") != key:
                return
            preprocessing = _loaded(key, choice)
        if preprocessing is None:
            return
        seen, warning = _seen(
            reading.key, reading.number, preprocessing.model_dump_json(), preprocessing, reading
        )
    except FAILURES as error:
        show_error(error)
        return
    st.markdown("**What the network sees**")
    with st.container(horizontal=True, gap="small", key="import sights"):
        for each in seen:
            with st.container(width=168, gap="xxsmall"):
                with st.container(horizontal=True, gap="xsmall", vertical_alignment="top"):
                    st.image(each.image, width=78, alt=f"{each.name}, as it is")
                    st.image(each.seen, width=78, alt=f"{each.name}, as the network sees it")
                st.caption(f"{plain(each.name)}: {percent(each.kept)} is seen")
    size = preprocessing.image_size
    st.caption(
        f"Left the image, right the {size} × {size} pixels that the network is given. "
        "“Layer, preprocessing and other details” above changes size and fit."
    )
    if warning:
        st.warning(plain(warning), icon=":material/crop:")


@st.cache_resource(max_entries=4, show_spinner="Loading the network")
def _loaded(key: str, _choice: BackboneChoice) -> ImagePreprocessing | None:
    return image_preprocessing(_choice, load=True)


@st.cache_resource(max_entries=8, show_spinner=False)
def _seen(
    key: str, number: int, prepared: str, _preprocessing: ImagePreprocessing, _reading: Reading
) -> tuple[list[Sight], str]:
    inputs = _reading.source.inputs
    return sights(_preprocessing, inputs), crop_warning(_preprocessing, inputs)
