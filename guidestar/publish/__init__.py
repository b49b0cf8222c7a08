"""A folder ready for the hub: the adapter, a model card, a card of the labelled set, a snippet that runs.

Nothing leaves the machine unless a repository is named to push to.
"""

from guidestar.publish.folder import publish

__all__ = ["publish"]
