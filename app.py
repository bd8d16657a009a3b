"""The dashboard's entry: it opens on the first page. Run it with `gsr app`."""

from gsr_core.views import navigation as nav

nav.begin()
nav.go("Setup")
