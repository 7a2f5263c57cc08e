"""VNN-LIB, the verification competition's language of properties: 1.0 and 2, in and out."""

from verify.complete.vnnlib.reading import parse_vnnlib as parse_vnnlib
from verify.complete.vnnlib.reading import read_vnnlib as read_vnnlib
from verify.complete.vnnlib.writing import vnnlib_text as vnnlib_text
