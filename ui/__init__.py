"""The GUI: a Gradio app over run folders. It holds nothing of a run: whatever is shown is read from disk.

server.py       the app: pages, routes, and who may use it (guard.py)
workspace.py    the folders that the GUI may read and write, and its settings
shelf.py        all runs, for the list; live.py: one run, as it moves; charts.py, cards.py: both as HTML
pages/          Train, Compare, Score, Settings; the page of runs is HTML of ours, drawn by look/script.js
"""
