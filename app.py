"""qlab's app: `streamlit run app.py`."""

import os

import streamlit as st

from pages.common.navigation import ENTERED, THROUGH_APP, navigation

# Idle threads of torch sleep instead of spinning: on a busy machine small networks then run some
# twenty times faster. It counts only if set before torch is loaded, which pages do on demand.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

st.set_page_config(
    page_title="qlab",
    layout="wide",
    # Streamlit's small menu holds the choice of light and dark; it shows only beside such an entry.
    menu_items={"About": "qlab: what quantization does to every layer of a PyTorch model."},
)
st.session_state[ENTERED] = st.session_state[THROUGH_APP] = True
navigation().run()
