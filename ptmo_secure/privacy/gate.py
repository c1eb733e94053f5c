"""What the privacy rules allow at each level. A policy chooses inside this, never beyond it."""

from collections.abc import Mapping
from types import MappingProxyType

from ptmo_secure.types import Level, Route

ALLOWED: Mapping[Level, tuple[Route, ...]] = MappingProxyType(
    {
        Level.PUBLIC: (Route.LOCAL, Route.CLOUD),
        Level.SEMI_SENSITIVE: (Route.LOCAL, Route.HYBRID),
        Level.PRIVATE: (Route.LOCAL,),
    }
)
