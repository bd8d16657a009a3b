"""Label: one sample after another, answered by keys; what is labelled; and what is made of it.

The samples that are asked for next are kept with the session as they were ranked, and ranked anew
when they are used up or the user asks for it. A button's key has its sample in it: a key that is
pressed twice, or just when the next sample comes, never answers a sample that was not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.jobs.command import shell_line
from gsr_core.labelling.answers import (
    BY,
    SKIPPED,
    answer_row,
    answers,
    choices,
    undo_answer,
    unlabelled,
    user_name,
)
from gsr_core.labelling.bundles import hide_groups, labelled_bundle
from gsr_core.labelling.power import label_progress
from gsr_core.labelling.queue import COUNT, ORDERS, label_queue, left_to_label
from gsr_core.labelling.tables import describe_answers
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show_error, show_rows
from gsr_core.views.face import face_in_full
from gsr_core.views.frame import link
from gsr_core.views.session import workspace
from gsr_core.views.slices import downloads

__all__ = ["labelling", "nothing_to_label", "use_answers"]

_KEYS = 9
"""Answers that have a key, 1 to 9; further ones are buttons alone."""

_ABOUT = (
    "influence: what a sample does to the groups' losses in the run, times the uncertainty of its "
    "group. balanced: the groups that have fewest labels take turns, by how likely a sample is in "
    "each. random: any, as a fair test set needs it."
)


@dataclass
class _Queue:
    """The samples that are asked for, in their order.

    Attributes:
        of: What they were ranked for: bundle, run and order.
        rows: (q,) positions in the bundle.
        place: Which of them is shown.
    """

    of: tuple[str, ...]
    rows: np.ndarray
    place: int = 0


def nothing_to_label(bundle: Bundle) -> bool:
    """Say so, and offer to hide groups, if no row that carries a weight is in no known group."""
    weighted = bundle.manifest.weighted_split
    if np.isin(bundle.rows_of[weighted], unlabelled(bundle)).any():
        return False
    with st.container(border=True, key="nothing to label"):
        st.subheader("The group of every sample is known.", anchor=False)
        st.write(
            f"There is nothing to label in {weighted} of this bundle. To see what labelling would "
            "bring on data like it, make a bundle that hides these groups, and label some again."
        )
        with (
            st.form("hide groups", border=False),
            st.container(horizontal=True, vertical_alignment="bottom"),
        ):
            name = st.text_input("Name of the bundle", value=f"{bundle.name}-hidden", width=320)
            keep = st.number_input(
                "Rows of each group that stay in target", min_value=1, value=2, width=280
            )
            pressed = st.form_submit_button("Hide the groups", type="primary")
        if pressed:
            try:
                with st.spinner("Writing the bundle"):
                    made = hide_groups(workspace(), bundle, name.strip(), keep=int(keep))
            except GsrError as error:
                show_error(error)
            else:
                nav.go("Run", bundle=made.name, run=None, runs=None, slice=None, sample=None)
    return True


@st.fragment
def labelling(bundle: Bundle, run: Run) -> None:
    """Draw the sample to answer, and beside it what is labelled.

    It is a fragment, so that an answer does not draw the whole page again.

    Args:
        bundle: With rows whose group is unknown.
        run: Whose influence ranks them, and whose accuracy says how many labels it takes.
    """
    left, right = st.columns([3, 2], gap="large")
    with left:
        _card(bundle, run)
    with right:
        _progress(bundle, run)


def _card(bundle: Bundle, run: Run) -> None:
    """Draw the sample to answer, its answers with their keys, and the ways back and on."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="label choices"):
        order = nav.select(
            "order",
            "Order",
            ORDERS,
            draw=st.segmented_control,
            required=True,
            help=_ABOUT,
        )
        st.text_input(
            "Your name",
            value=user_name(),
            max_chars=BY,
            key="label by",
            width=150,
            persist_state="session",
        )
        st.button("Rank anew", icon=":material/refresh:", key="rank anew", on_click=_forget)
    if message := st.session_state.pop("label trouble", ""):
        show_error(message)
    try:
        queue = _queue(bundle, run, order)
        given = answers(workspace(), bundle).set_index("row")
    except GsrError as error:
        show_error(error)
        if order == "influence":
            link("Run", "Start a run of GSR")
        return
    if not len(queue.rows):
        st.success("Every sample is answered or skipped. Use the answers below.")
        _undo_button(bundle)
        return
    row = int(queue.rows[queue.place])
    _sample(bundle, row)
    answer = str(given.loc[row, "answer"]) if row in given.index else None
    with st.container(horizontal=True, key="label answers"):
        for place, each in enumerate(choices(bundle, int(bundle.y[row])), start=1):
            st.button(
                plain(each),
                type="primary" if each == answer else "secondary",
                shortcut=str(place) if place <= _KEYS else None,
                key=f"answer {row} {place}",
                on_click=_answer,
                args=(bundle, row, each, order),
            )
    with st.container(horizontal=True, key="label ways"):
        st.button(
            "Back",
            shortcut="ArrowLeft",
            disabled=queue.place == 0,
            key=f"label back {row}",
            on_click=_back,
            args=(row,),
        )
        st.button(
            "Skip",
            shortcut="S",
            key=f"label skip {row}",
            on_click=_answer,
            args=(bundle, row, SKIPPED, order),
        )
        _undo_button(bundle, row)
    if answer is not None:
        told = "Skipped" if answer == SKIPPED else f"Answered {plain(answer)}"
        st.caption(f"{told} by {plain(given.loc[row, 'by'])}; another answer takes its place.")


def _sample(bundle: Bundle, row: int) -> None:
    """Draw the sample in large, with its class, in a place of one height."""
    name = bundle.column("sample_id")[row].as_py()
    label = bundle.manifest.classes[bundle.y[row]]
    with st.container(border=True, horizontal_alignment="center", key="label card"):
        with st.container(width=360 if bundle.has_images else "stretch"):
            face_in_full(bundle, row, alt=f"sample {name}, class {label}")
        st.markdown(f"**{plain(label)}** · {plain(name)}")


def _undo_button(bundle: Bundle, row: int = -1) -> None:
    st.button("Undo", shortcut="U", key=f"label undo {row}", on_click=_undo, args=(bundle,))


def _queue(bundle: Bundle, run: Run, order: str) -> _Queue:
    """Return the samples that are asked for; ranked anew if there are none left, or others' turn.

    Raises:
        GsrError: If the run cannot rank them, or the answers cannot be read.
    """
    of = (bundle.manifest.digest, run.run_id if order == "influence" else "", order)
    queue = st.session_state.get("label queue")
    if queue is None or queue.of != of or queue.place >= len(queue.rows):
        with st.spinner("Ranking the samples"):
            ranked = label_queue(workspace(), bundle, order=order, run=run)
        queue = _Queue(of, ranked["row"].to_numpy(np.int64))
        st.session_state["label queue"] = queue
    return queue


def _forget() -> None:
    st.session_state.pop("label queue", None)


def _answer(bundle: Bundle, row: int, answer: str, order: str) -> None:
    """Keep an answer, and show the next sample that nobody has answered meanwhile."""
    by = str(st.session_state["label by"])
    try:
        answer_row(workspace(), bundle, row, answer, by=by, order=order)
        held = answers(workspace(), bundle)["row"].to_numpy()
    except GsrError as error:
        st.session_state["label trouble"] = str(error)
        return
    queue = st.session_state.get("label queue")
    place = _place(queue, row)
    if queue is None or place is None:
        return
    open_ones = np.flatnonzero(~np.isin(queue.rows, held))
    later = open_ones[open_ones > place]
    # After the last one, what was passed over by going back is open still; then all are ranked.
    following = [*later, *open_ones]
    queue.place = int(following[0]) if following else len(queue.rows)


def _back(row: int) -> None:
    queue = st.session_state.get("label queue")
    place = _place(queue, row)
    if queue is not None and place:
        queue.place = place - 1


def _undo(bundle: Bundle) -> None:
    """Take back the user's last answer, and show its sample."""
    try:
        row = undo_answer(workspace(), bundle, by=str(st.session_state["label by"]))
    except GsrError as error:
        st.session_state["label trouble"] = str(error)
        return
    if row is None:
        st.toast("You have no answer here that could be taken back.")
        return
    queue = st.session_state.get("label queue")
    if queue is None:
        return
    place = _place(queue, row)
    if place is None:
        # It was asked before the samples were ranked anew.
        place = min(queue.place, len(queue.rows))
        queue.rows = np.insert(queue.rows, place, row)
    queue.place = place


def _place(queue: _Queue | None, row: int) -> int | None:
    """Return where a sample is in the queue, None if it is not."""
    places = np.flatnonzero(queue.rows == row) if queue is not None else np.zeros(0, dtype=int)
    return int(places[0]) if len(places) else None


def _progress(bundle: Bundle, run: Run) -> None:
    """Draw what is labelled of each group, and how many more labels it needs to be judged."""
    try:
        given = answers(workspace(), bundle)
        left = len(left_to_label(workspace(), bundle))
        table = label_progress(workspace(), bundle, run)
    except GsrError as error:
        show_error(error)
        return
    skipped = int((given["answer"] == SKIPPED).sum())
    with st.container(horizontal=True, key="label counts"):
        st.metric("Answered", f"{len(given) - skipped:,}", border=True)
        st.metric("Skipped", f"{skipped:,}", border=True)
        st.metric("Left", f"{left:,}", border=True)
    shown = ("group", "answered", "target", "test", "more")
    heads = {"answered": "by hand", "more": "test lacks"}
    show_rows(
        table[list(shown)].rename(columns=heads),
        column_config={
            heads.get(name, name): st.column_config.NumberColumn(format="localized")
            for name in shown[1:]
        },
        key="label groups",
        height="content",
    )
    most = table.iloc[int(table["more"].to_numpy().argmax())]
    if most["more"]:
        st.caption(
            f"{plain(most['group'])} lacks most: +5 points can be told from chance there (5 %, "
            f"power 80 %) with {most['needed']:,} samples of test, {most['more']:,} more than it "
            "has. That is the most it can take, since heads of the same features err on the same "
            "ones. Answers in random order count here: they may become test."
        )
    else:
        st.caption("In every group, +5 points can be told from chance (5 %, power 80 %).")


def use_answers(bundle: Bundle) -> None:
    """Draw what can be made of the answers: a bundle to run on, and files.

    Args:
        bundle: The data.
    """
    st.subheader("Use the answers", anchor=False)
    with (
        st.form("use answers", border=False),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        name = st.text_input("Name of the bundle", value=f"{bundle.name}-labelled", width=320)
        split = st.segmented_control(
            "The answered samples become",
            ["target", "test"],
            default="target",
            required=True,
            help="target drives the weights, and takes every answer. test only reports, and takes "
            "those in random order alone: on samples that a queue picked, because they are hard, "
            "the classifier would seem worse than it is.",
        )
        pressed = st.form_submit_button("Make the bundle", type="primary")
    st.caption(
        "A new bundle of the same samples, in which these have left the split that carries the "
        "weights. Every method runs on it at once."
    )
    if pressed:
        try:
            with st.spinner("Writing the bundle"):
                made = labelled_bundle(
                    workspace(), bundle, name.strip(), split="test" if split == "test" else "target"
                )
        except GsrError as error:
            show_error(error)
        else:
            nav.go("Run", bundle=made.name, run=None, runs=None, slice=None, sample=None)
    with st.container(horizontal=True, vertical_alignment="center", key="answers home"):
        downloads(
            lambda: describe_answers(workspace(), bundle),
            label="Answers as",
            name=f"{bundle.name}-answers",
            key="answers",
        )
    st.caption(f"The next {COUNT} samples as a file to fill in elsewhere, from a terminal:")
    lines = (
        shell_line(["label", bundle.name, option, "queue.csv"], workspace())
        for option in ("--export", "--import")
    )
    st.code("\n".join(lines), language="bash", wrap_lines=True)
