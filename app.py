"""qlab's app: `streamlit run app.py`."""

import streamlit as st
from starlette.middleware import Middleware
from streamlit import runtime

from pages.common.answers import keep_answers
from pages.common.early import OwnHead
from pages.common.navigation import ENTERED, THROUGH_APP, navigation
from pages.common.preload import lifespan

if runtime.exists():
    st.set_page_config(
        page_title="qlab",
        layout="wide",
        # Streamlit's small menu holds the choice of light and dark; it shows only beside such an
        # entry.
        menu_items={"About": "qlab: what quantization does to every layer of a PyTorch model."},
    )
    st.session_state[ENTERED] = st.session_state[THROUGH_APP] = True
    navigation().run()
else:
    keep_answers()
    # Streamlit finds this name when it starts, so that work can begin before the first visit.
    app = st.App(__file__, lifespan=lifespan, middleware=[Middleware(OwnHead)])
