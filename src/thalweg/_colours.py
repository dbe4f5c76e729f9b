"""The colours of every picture.

Okabe & Ito, "Color universal design", 2008: told apart by readers of any colour vision.
"""

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
