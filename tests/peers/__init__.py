"""The tests that transformers runs on every model of its own, run on ours.

`make test` takes them from the source distributions of the oldest and the newest supported transformers into
`build/transformers-VERSION-tests`; where the registry could not be reached, these tests skip. What the distributions
leave out has a stand-in in `stand_ins/`. What is meant to differ from transformers' models is listed with its reason in
`differences.py`; an entry of that list that passes is an error.
"""
