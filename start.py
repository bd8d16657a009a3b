"""The dashboard's first script: it opens on the first page. The server is `app.py`."""

from gsr_core.views import navigation as nav

nav.begin()
nav.go("Setup")
