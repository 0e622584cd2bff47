from __future__ import annotations

from proxy.ports import Health, Part, fan_out


def test_everyone_is_told_in_order() -> None:
    told: list[tuple[str, object]] = []
    event = Health(part=Part.STORE, well=True, name="x")
    fan_out([lambda event: told.append(("a", event)), lambda event: told.append(("b", event))])(event)
    assert told == [("a", event), ("b", event)]
