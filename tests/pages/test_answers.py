"""An answer that the browser waits for outlives the start of a new run."""

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import app_session
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

from pages.common.answers import AnsweringQueue, keep_answers


def answer(id: str) -> ForwardMsg:
    message = ForwardMsg()
    message.file_urls_response.response_id = id
    return message


def drawn(fragment: str = "") -> ForwardMsg:
    message = ForwardMsg()
    message.delta.new_element.text.body = "drawn"
    message.delta.fragment_id = fragment
    message.metadata.delta_path[:] = [0, 1 if fragment else 0]
    return message


def filled(kind: type[ForwardMsgQueue]) -> ForwardMsgQueue:
    queue = kind()
    for message in (drawn(), answer("first"), drawn("part"), answer("second")):
        queue.enqueue(message)
    return queue


def kept(queue: ForwardMsgQueue) -> list[str]:
    return [m.file_urls_response.response_id or m.delta.fragment_id for m in queue.flush()]


def test_a_new_run_drops_what_was_drawn_and_no_answer():
    queue = filled(AnsweringQueue)
    queue.clear(retain_lifecycle_msgs=True)
    assert kept(queue) == ["first", "second"]


def test_a_new_run_of_a_part_keeps_every_answer_once():
    queue = filled(AnsweringQueue)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=["part"])
    assert sorted(kept(queue)) == ["", "first", "second"]


def test_an_emptied_queue_is_empty():
    queue = filled(AnsweringQueue)
    assert len(queue.flush()) == 4
    assert len(queue) == 0


def test_streamlit_still_needs_it():
    queue = filled(ForwardMsgQueue)
    queue.clear(retain_lifecycle_msgs=True)
    assert kept(queue) == [], "Streamlit keeps answers now: pages/common/answers.py can go"


def test_sessions_get_such_a_queue(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app_session, "ForwardMsgQueue", ForwardMsgQueue)
    keep_answers()
    session = app_session.AppSession.__init__
    assert session.__globals__["ForwardMsgQueue"] is AnsweringQueue
