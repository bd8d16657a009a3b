"""What if: what do these samples do to the groups, and did influence foresee it?"""

from gsr_core.views.frame import frame
from gsr_core.views.what_if import choose_edit, outcome_of, show_outcome

page = frame(
    "What if",
    "What do these samples do to the groups, and did influence foresee it?",
    needs_run=True,
)
assert page.run is not None
refits, edit = choose_edit(page.bundle, page.run)
show_outcome(page, refits, outcome_of(refits, edit))
