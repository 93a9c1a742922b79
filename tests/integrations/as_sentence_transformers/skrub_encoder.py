"""skrub's encoder, and its error for a model that is absent."""

import json
import sys

import numpy as np
import pandas as pd
from skrub import TextEncoder
from skrub._text_encoder import ModelNotFound

texts, target = json.loads(sys.argv[1]), sys.argv[2]
column = pd.Series(texts, name="text")
np.save(target, TextEncoder("all-MiniLM-L6-v2", n_components=None).fit_transform(column).to_numpy())
try:
    TextEncoder("org/absent", n_components=None).fit_transform(column)
except ModelNotFound:
    pass
else:
    raise AssertionError("the model was found")
