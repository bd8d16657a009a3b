"""Maps: samples as points, by a head, by features or by influence, kept by content."""
