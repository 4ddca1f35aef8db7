"""What schemathesis does not know by itself: rows are sent as any text is."""

import schemathesis

from api.datasets.body import KINDS

schemathesis.serializer.alias(list(KINDS), "text/plain")
