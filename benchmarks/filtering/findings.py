"""What the numbers of the page show, in words."""

FINDINGS: list[str] = []
