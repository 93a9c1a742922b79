"""skrub's encoder, and its error for a model that is absent."""

import json
import sys

import numpy as np
import pandas as pd
from skrub import TextEncoder

texts, target = json.loads(sys.argv[1]), sys.argv[2]
column = pd.Series(texts, name="text")
encoder = TextEncoder("all-MiniLM-L6-v2", n_components=None)
# skrub divides all vectors by one number.
np.save(target, encoder.fit_transform(column).to_numpy() * encoder.scaling_factor_)
raised = None
try:
    TextEncoder("org/absent", n_components=None).fit_transform(column)
except ValueError as error:
    raised = type(error).__name__
assert raised == "ModelNotFound", raised
