"""The gate before a bundle ships or becomes a default: a fixed battery, criteria, and a report card in the bundle.

``criteria`` says what must be reached, ``battery`` what is tried, ``run`` tries it with the methods, masks and metrics of
`commands.evaluation`, ``card`` writes it down.
"""
