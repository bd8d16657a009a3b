"""What if: what do some samples do to the groups, and does influence say so?"""

from gsr_core.views.frame import frame
from gsr_core.views.what_if import choose_edit, outcome_of, show_outcome

page = frame(
    "What if",
    "What would each group's accuracy be without these samples, and did influence foresee it?",
    needs_run=True,
)
assert page.run is not None
refits, edit = choose_edit(page.bundle, page.run)
show_outcome(page.bundle, refits, outcome_of(refits, edit))
