"""Where data is processed: a country by its two letters, EU, or HERE for what does not leave this machine."""

HERE = "HERE"
EU = "EU"
EU_COUNTRIES = frozenset("AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split())


def is_region(region: str) -> bool:
    """Whether it is written as one."""
    return region == HERE or (len(region) == 2 and region.isascii() and region.isupper())


def region_covers(wanted: str, region: str) -> bool:
    """Whether what is processed in `region` is surely processed in `wanted`: FR in EU, not EU in FR.

    HERE is in every region, since what stays on this machine is moved nowhere.
    """
    return region in (wanted, HERE) or (wanted == EU and region in EU_COUNTRIES)
