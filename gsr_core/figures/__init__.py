"""Charts: data frames in, `plotly.graph_objects.Figure` out; `theme.finish` dresses each one."""
