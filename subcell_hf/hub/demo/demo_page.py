"""Looks and words of the demo; lies beside `app.py` on the Hub."""

HELP = """
**Input:** one cell, or a field of view. PNG, JPEG, TIFF or `.npy`, 8 or 16 bits, up to 3,072 px and 64 MB in all.
Upload one image per channel, or one file with all: a channel sheet (one grey picture with the channels side by side,
all square), an RGB picture if each channel of the model is red, green or blue, or a TIFF or `.npy` with one plane per
channel. Cells of a field are segmented if the demo was installed with its image tools, or taken from a mask that you
upload.

**Output:** the probability of each location, the attention of the model (the weights of its attention pooling, mean
over heads), the embedding to download, and the cell on a map (UMAP) of reference cells. The map is computed in advance.
A new cell does not change it: it is placed among the reference cells with the most similar embeddings, which are shown
with their pictures and the cosine of the embeddings.

**Limits:** probabilities are meaningful for cells like those of the training data. Another microscope, another cell
line or another pixel size can mislead the model. Files are deleted within two hours; do not upload what must stay
private.
"""

CSS = """
.message { padding: .7em 1em; border-radius: 8px; border-left: 5px solid #0b8f8f; background: rgba(11,143,143,.12); }
.message.error { border-color: #c62828; background: rgba(198,40,40,.13); font-weight: 600; }
.locations { display: grid; gap: .45em; min-width: 15em; }
.location { display: grid; grid-template-columns: minmax(7em, 11em) 1fr max-content; gap: .6em; align-items: center; }
.location b { min-width: 4.4em; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.location .track { background: rgba(128,128,128,.22); border-radius: 4px; height: 1em; overflow: hidden; }
.location .bar { height: 100%; min-width: 2px; }
.location .bar, .legend i:not(.own) { border: 1px solid rgba(150,150,150,.75); box-sizing: border-box; }
.picture .image-container > button, .picture .image-frame, .picture img { width: 100%; }
.picture img { object-fit: contain; image-rendering: pixelated; }
#seen img, #attention img { image-rendering: auto; }
.map svg { width: 100%; max-width: 460px; background: #f2f2f2; border-radius: 8px; }
.map h3 { margin: 0 0 .4em; }
.map .how { font-size: .85em; opacity: .75; }
.map p { margin: .6em 0 0; }
.map .own { fill: #fff; stroke: #111; stroke-width: 2.5; }
.legend { display: flex; flex-wrap: wrap; gap: .2em .9em; margin-top: .4em; font-size: .9em; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .35em; }
.legend i.own { width: auto; height: auto; font-style: normal; }
.similar h3 { margin: 0 0 .4em; }
.similar .cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5em, 1fr)); gap: .8em; }
.similar figure { margin: 0; font-size: .85em; }
.similar img, .similar .blank { width: 100%; aspect-ratio: 1; border-radius: 6px; object-fit: contain; }
.similar .blank { display: grid; place-items: center; background: rgba(128,128,128,.22); }
.similar figcaption > * { display: block; overflow-wrap: anywhere; }
@media (max-width: 640px) { .location { grid-template-columns: 7.5em 1fr max-content; } }
"""
