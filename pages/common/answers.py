"""Keeps Streamlit from dropping its answer to a browser that asks where to send a file.

Before a chosen file is sent, the browser asks the server for an address; until the answer comes it
shows nothing of the file. A run of the page that begins meanwhile empties the session's queue of
messages to the browser, and in Streamlit 1.67 this answer goes with the rest: the browser waits
for ever, and the file was chosen in vain.
"""

from __future__ import annotations

from streamlit.runtime import app_session
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

#: Messages that answer one question of the browser, and are true whatever the page draws next.
ANSWERS = frozenset({"file_urls_response"})


class AnsweringQueue(ForwardMsgQueue):
    """A session's messages to its browser, of which answers are never dropped."""

    def clear(
        self,
        retain_lifecycle_msgs: bool = False,
        fragment_ids_this_run: list[str] | None = None,
    ) -> None:
        """Empties the queue for a new run, or wholly; answers stay for the new run."""
        before = list(self._queue) if retain_lifecycle_msgs else []
        super().clear(retain_lifecycle_msgs, fragment_ids_this_run)
        stayed = {id(message) for message in self._queue}
        self._queue += [
            message
            for message in before
            if message.WhichOneof("type") in ANSWERS and id(message) not in stayed
        ]


def keep_answers() -> None:
    """Gives every session that begins from now on such a queue."""
    app_session.ForwardMsgQueue = AnsweringQueue  # pyright: ignore[reportPrivateImportUsage]
