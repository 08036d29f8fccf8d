"""A small script that the harness's own tests drive."""

import streamlit as st

st.title("Harness")
value = st.slider("bits", 2, 8, 8, key="bits")
st.text(f"levels: {2**value}")
if st.button("raise"):
    raise ValueError("the detail that nobody may see")
if st.button("fetch"):
    st.markdown("![](https://outside.invalid/pixel.png)")
