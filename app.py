"""qlab's app: `streamlit run app.py`."""

import streamlit as st

from pages.common.navigation import ENTERED, THROUGH_APP, navigation

st.set_page_config(
    page_title="qlab",
    layout="wide",
    # Streamlit's small menu holds the choice of light and dark; it shows only beside such an entry.
    menu_items={"About": "qlab: what quantization does to every layer of a PyTorch model."},
)
st.session_state[ENTERED] = st.session_state[THROUGH_APP] = True
navigation().run()
