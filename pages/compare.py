"""Compare: which method wins, at what cost, and on which samples do they differ?"""

import streamlit as st

from gsr_core.figures.compare import group_dots, worst_against_average
from gsr_core.views.charts import show, side_by_side
from gsr_core.views.compare import (
    accuracy_by_group,
    add_seeds,
    choose_average,
    choose_entries,
    group_tables,
    score_tables,
    show_slices,
    show_table,
)
from gsr_core.views.compare_pairs import (
    choose_reference,
    differences,
    fixed_and_broken,
    value_against_value,
)
from gsr_core.views.frame import frame
from gsr_core.views.gate import gate
from gsr_core.views.look import where_they_look
from gsr_core.views.radar import what_broke, what_it_leans_on
from gsr_core.views.report_button import report_button, report_on_all

page = frame("Compare", "Which method serves the worst group best, and what does it cost?")
bundle = page.bundle
compared = choose_entries(page)
average, average_name = choose_average()
scores, table, points = score_tables(compared, bundle, average)

left, right = side_by_side()
with left:
    st.subheader("Worst group against average", anchor=False)
    figure = worst_against_average(table, points=points, average_name=average_name)
    show(figure, key="trade", alt="Worst-group accuracy against average accuracy.")
with right:
    st.subheader("Each group", anchor=False)
    groups, group_points = group_tables(compared)
    figure = group_dots(groups, points=group_points)
    show(figure, key="dots", alt="Accuracy of each group under each method.")
show_table(compared, scores, bundle)
add_seeds(page, compared)
with st.expander("Each group in numbers"):
    accuracy_by_group(groups)
show_slices(compared, bundle)

if len(compared) > 1:
    st.subheader("Better than the reference, or luck?", anchor=False)
    reference = choose_reference(compared)
    differences(bundle, compared, scores, reference, average, average_name)
    left, right = side_by_side()
    with left:
        st.subheader("Fixed and broken samples", anchor=False)
        best = table.sort_values("worst", ascending=False)["label"].iloc[0]
        other = fixed_and_broken(bundle, compared, reference, best)
    with right:
        st.subheader("Weight against weight", anchor=False)
        value_against_value(bundle, compared)
    left, right = side_by_side()
    with left:
        st.subheader("What did it break?", anchor=False)
        what_broke(bundle, reference, other)
    with right:
        st.subheader("What does the head lean on?", anchor=False)
        what_it_leans_on(bundle, reference, other)
    where_they_look(bundle, reference, other)
    st.subheader("Is it good enough to use?", anchor=False)
    gate(bundle, reference, other)
    report_on_all(compared, reference)
else:
    report_button(compared[0].runs)
