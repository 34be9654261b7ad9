"""Weightings from headers as vendors and departments write them."""

from __future__ import annotations

import pytest

from spinemets.io.exclusions import contrast_exclusion, derived_exclusion, is_localiser
from spinemets.io.plain_words import plain_words
from spinemets.io.weighting import (
    AcquisitionHeader,
    has_t1_words,
    native_if_silent,
    weighting_from_header,
    weighting_from_name,
)
from spinemets.volume import Weighting


def header(
    description: str = "",
    sequence: str = "SE",
    tr: float | None = None,
    te: float | None = None,
    ti: float | None = None,
    **others: object,
) -> AcquisitionHeader:
    return AcquisitionHeader(
        description=description,
        scanning_sequence=tuple(sequence.split("/")) if sequence else (),
        repetition_time_ms=tr,
        echo_time_ms=te,
        inversion_time_ms=ti,
        **others,  # type: ignore[arg-type]
    )


T1, T2, PD, UNKNOWN = Weighting.T1, Weighting.T2, Weighting.PD, Weighting.UNKNOWN
T2_FS, PD_FS, T1_GD, T1_FS_GD = Weighting.T2_FS, Weighting.PD_FS, Weighting.T1_GD, Weighting.T1_FS_GD
WATER, FAT = Weighting.DIXON_WATER, Weighting.DIXON_FAT
IN_PHASE, OUT_OF_PHASE = Weighting.DIXON_IN_PHASE, Weighting.DIXON_OUT_OF_PHASE

HEADERS = [
    # Siemens
    ("siemens t1 tse", header("t1_tse_sag", "SE", 650, 11), T1),
    ("siemens t2 tse", header("t2_tse_sag_384", "SE", 3500, 107), T2),
    ("siemens tirm", header("t2_tirm_sag", "SE/IR", 4200, 38, 160), T2_FS),
    ("siemens stir 3T", header("STIR_sag", "SE/IR", 4800, 40, 220), T2_FS),
    ("siemens tirm dark fluid t1", header("t1_tirm_dark-fluid_sag", "SE/IR", 2000, 12, 860), T1),
    ("siemens t1 fs after contrast", header("t1_tse_sag_KM", "SE", 700, 12, scan_options=("FS",)), T1_FS_GD),
    (
        "siemens agent in header",
        header("t1_tse_sag", "SE", 650, 11, contrast_agent="Gadovist"),
        T1_GD,
    ),
    ("siemens nativ in spite of an agent", header("t1_tse_sag nativ", contrast_agent="Gadovist"), T1),
    ("siemens t2 dixon", header("t2_tse_dixon", image_type=("DERIVED", "PRIMARY", "DIXON", "WATER")), WATER),
    ("siemens t2 dixon by suffix", header("t2_tse_dixon_sag_F"), FAT),
    ("siemens dixon in phase", header("t2_tse_dixon_sag_in"), IN_PHASE),
    ("siemens opposed", header("vibe", image_type=("ORIGINAL", "PRIMARY", "M", "OPP_PHASE")), OUT_OF_PHASE),
    ("siemens space", header("t2_spc_sag_iso", "SE", 1500, 130), T2),
    ("siemens mprage", header("sag 3d mpr", "GR/IR", 2300, 2.9, 900, flip_angle_deg=9.0), T1),
    ("siemens vibe", header("vibe", "GR", 5.2, 2.1, flip_angle_deg=10.0), T1),
    ("siemens medic", header("t2_me2d_tra", "GR", 800, 17, flip_angle_deg=30.0), UNKNOWN),
    ("siemens ciss", header("ciss_3d_sag", "GR", 5.6, 2.5, flip_angle_deg=50.0), T2),
    # GE
    ("ge fse", header("SAG T2 FRFSE", "SE", 3200, 102), T2),
    ("ge t1 flair", header("SAG T1 FLAIR", "SE/IR", 2400, 24, 910), T1),
    ("ge stir", header("Sag STIR", "SE/IR", 4000, 45, 150), T2_FS),
    ("ge fat sat", header("SAG T2 FS", "SE", 3600, 90, scan_options=("FAST_GEMS", "FS")), T2_FS),
    ("ge ideal water", header("WATER: Sag T2 FSE IDEAL"), WATER),
    ("ge ideal in phase", header("InPhase: Sag T1 IDEAL"), IN_PHASE),
    ("ge t1 +c", header("SAG T1 +C FS"), T1_FS_GD),
    ("ge w/o", header("SAG T1 W/O C"), T1),
    # Philips
    ("philips t2w", header("T2W_TSE_SAG", "SE", 3000, 120), T2),
    ("philips mdixon water", header("mDIXON", image_type=("DERIVED", "PRIMARY", "W", "W")), WATER),
    ("philips mdixon ip", header("mDIXON", image_type=("DERIVED", "PRIMARY", "IP", "IP")), IN_PHASE),
    ("philips spair", header("T2W_SPAIR_SAG", "SE", 3400, 80), T2_FS),
    ("philips pdw spair", header("PDW_SPAIR", "SE", 2800, 30), PD_FS),
    ("philips bffe", header("3D bFFE sag", "GR", 5, 2.5, flip_angle_deg=50.0), T2),
    ("philips sbffe", header("sBFFE_sag", "GR", 5, 2.5, flip_angle_deg=50.0), T2),
    ("philips b-ffe", header("B-FFE sag", "GR", 5, 2.5, flip_angle_deg=50.0), T2),
    ("philips btfe", header("sBTFE_sag", "GR", 5, 2.5, flip_angle_deg=50.0), T2),
    ("philips t1w gd", header("T1W_TSE_SAG_Gd", "SE", 500, 8), T1_GD),
    # Enhanced multi-frame
    ("enhanced t1", header("", "SE", 600, 10, acquisition_contrast="T1"), T1),
    ("enhanced stir", header("", "SE/IR", 4000, 60, acquisition_contrast="STIR"), T2_FS),
    ("enhanced fat suppression", header("", "SE", 3000, 90, fat_suppressed=True), T2_FS),
    ("enhanced t2 star", header("", "GR", 600, 15, acquisition_contrast="T2_STAR"), UNKNOWN),
    # Several languages
    ("german", header("T1 sag nach KM fettgesättigt", "SE", 600, 10), T1_FS_GD),
    ("german without", header("T1 sag ohne KM", "SE", 600, 10, contrast_agent="Dotarem"), T1),
    ("french", header("SAG T1 sans injection"), T1),
    ("french after", header("SAG T1 INJECTÉ"), T1_GD),
    ("french proton density", header("SAG densité de protons"), PD),
    ("spanish", header("SAG T1 CONTRASTE"), T1_GD),
    ("spanish without", header("SAG T1 sin contraste"), T1),
    ("italian", header("T1 sag post mdc"), T1_GD),
    # Times alone, and times against words
    ("times t1", header("sag", "SE", 550, 12), T1),
    ("times t2", header("sag", "SE", 3100, 98), T2),
    ("times pd", header("sag", "SE", 2500, 25), PD),
    ("times stir", header("sag", "IR", 4500, 35, 150), T2_FS),
    ("no times", header("sag", "SE"), UNKNOWN),
    ("renamed t1 that is t2", header("T1 sag", "SE", 3500, 110), T2),
    ("renamed t2 that is t1", header("T2 sag", "SE", 600, 12), T1),
    ("t2 that is a proton density", header("SAG T2 FSE DUAL", "SE", 3500, 15), PD),
    ("its second echo", header("SAG T2 FSE DUAL", "SE", 3500, 95), T2),
    ("vertebral range is no weighting", header("AX C7-T1", "SE", 3500, 100), T2),
    ("both named", header("sag PD/T2", "SE", 3000, 15), PD),
    ("post-operative is not post-contrast", header("T1 sag post op", "SE", 600, 10), T1),
    ("fat-suppressed t1 without agent", header("T1 FS sag", "SE", 600, 10), UNKNOWN),
    ("cervical", header("SAG T1 C SPINE", "SE", 600, 10), T1),
    ("protocol with both", header("SAG T1", "SE", 600, 10, protocol="L SPINE W/WO CONTRAST"), T1),
    ("protocol with agent", header("SAG T1", "SE", 600, 10, protocol="LWS mit KM"), T1_GD),
    (
        "agent outweighs a protocol without",
        header("SAG T1", contrast_agent="Dotarem", protocol="LWS ohne KM"),
        T1_GD,
    ),
    ("no agent outweighs a protocol", header("SAG T1", contrast_agent="NONE", protocol="LWS mit KM"), T1),
    ("a replaced agent", header("SAG T1", contrast_agent="ANONYMIZED"), T1),
    ("a replaced agent of a described T1", header("SAG T1 Gd", contrast_agent="ANONYMIZED"), T1_GD),
    ("an agent that is none", header("SAG T1", contrast_agent="Without contrast"), T1),
    (
        "description outweighs a protocol with both",
        header(
            "SAG T1 FS POST GAD", protocol="LUMBAR WITH AND WITHOUT CONTRAST", contrast_agent="Gadavist"
        ),
        T1_FS_GD,
    ),
    (
        "description outweighs a protocol without",
        header("SAG T1 POST GAD", protocol="LSPINE WITHOUT CONTRAST"),
        T1_GD,
    ),
    (
        "silent beside one with agent",
        header("SAG T1", contrast_agent="Gadavist", contrast_named_in_study=True),
        T1,
    ),
    (
        "silent but fat-suppressed beside one with agent",
        header("SAG T1 FS", contrast_agent="Gadavist", contrast_named_in_study=True),
        T1_FS_GD,
    ),
    ("what a sidecar says", header("T1w", original_description="SAG T1 PRE", contrast_agent="Gd"), T1),
    ("protocol name only", header("", "SE", protocol="T1 TSE SAG"), T1),
    ("examination's STIR", header("SAG T1", "SE", 600, 10, protocol="L SPINE T1 T2 STIR"), T1),
    ("examination's STIR of a T2", header("SAG T2", "SE", 3600, 100, protocol="L SPINE T1 T2 STIR"), T2),
    ("examination's STIR alone", header("SAG T1", "SE", 600, 10, protocol="SPINE STIR"), T1),
    ("examination's fat suppression", header("SAG T1", "SE", 600, 10, protocol="T SPINE T1 T2 T2FS"), T1),
    ("another series' fat suppression", header("SAG T2", "SE", 3600, 100, protocol="T1FS"), T2),
    ("examination's STIR by times", header("sag", "SE", 600, 10, protocol="T1 STIR"), T1),
    ("protocol of the series", header("SAG T2", "SE", 3600, 90, protocol="t2_tse_fs_sag"), T2_FS),
    ("protocol of two echoes", header("SAG PD", "SE", 3000, 15, protocol="pd_t2_tse_fs_sag"), PD_FS),
    ("protocol STIR of a plain description", header("SAG", "SE", protocol="STIR_sag"), T2_FS),
    ("protocol STIR of a T2", header("SAG T2", "SE", 4000, 60, protocol="T2_STIR_sag"), T2_FS),
    ("post-operative water is not opposed", header("t2 dixon sag W post-op", "SE", 3600, 100), WATER),
    ("opposed", header("t1_vibe_dixon_op", "GR"), OUT_OF_PHASE),
    ("nothing", header("", ""), UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("acquisition", "expected"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
def test_weighting_of_a_header(acquisition, expected):
    assert weighting_from_header(acquisition) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("T1w", T1),
        ("acq-sag_T2w", T2),
        ("T1_gd", T1_GD),
        ("t1ce", T1_GD),
        ("T1fs_KM", T1_FS_GD),
        ("STIR", T2_FS),
        ("T2_fs", T2_FS),
        ("t2_SPACE", T2),
        ("PDw", PD),
        ("sT2W_TSE_sag", T2),
        ("eT2W_TSE", T2),
        ("dT2W_TSE", T2),
        ("sT2W_SPAIR_sag", T2_FS),
        ("sT1W_TSE", T1),
        ("sT1W_TSE_Gd", T1_GD),
        ("sT1W_FS_C", T1_FS_GD),
        ("sPDW_TSE", PD),
        ("rest1", UNKNOWN),
        ("st2", UNKNOWN),
        ("T2star", UNKNOWN),
        ("volume", UNKNOWN),
    ],
)
def test_weighting_of_a_file_name(name, expected):
    assert weighting_from_name(name) is expected


def test_names_of_philips_count_where_a_study_names_contrast_agent():
    before, after = header("sT1W_TSE"), header("sT1W_TSE Gd")
    assert has_t1_words(before.description)
    assert native_if_silent((before, after)) == {before, after}


@pytest.mark.parametrize(
    ("description", "told"),
    [("SAG T1 POST GAD", True), ("SAG POST GAD", True), ("SAG FS POST", True), ("SAG T2 POST GAD", False)],
)
def test_a_lone_silent_t1_is_native_beside_a_t1_described_as_enhanced(description, told):
    times = (3000, 100) if "T2" in description else (600, 10)
    silent = header("SAG T1", "SE", 600, 10, contrast_agent="Gadavist")
    described = header(description, "SE", *times, contrast_agent="Gadavist")
    assert (silent in native_if_silent((silent, described))) is told


def test_words_lose_accents_separators_and_vertebral_ranges():
    assert plain_words("T2-pondéré_SAG (T1-T12)") == "t2 pondere sag"
    assert plain_words("sag_sT2W_TSE") == "sag t2w tse"


@pytest.mark.parametrize(
    ("description", "image_type"),
    [
        ("localizer", ()),
        ("3-plane loc", ()),
        ("Survey", ()),
        ("AAHead_Scout", ()),
        ("Übersicht", ()),
        ("LOKALISATOR", ()),
        ("repérage", ()),
        ("sag", ("ORIGINAL", "PRIMARY", "LOCALIZER")),
    ],
)
def test_localisers_are_known(description, image_type):
    assert is_localiser(AcquisitionHeader(description=description, image_type=image_type))


@pytest.mark.parametrize(
    "description",
    ["t2_tse_sag", "local coil T1", "SAG T2 LUMBAR", "T2 cervical", "SAG STIR METASTATIC SURVEY"],
)
def test_ordinary_series_are_no_localisers(description):
    assert not is_localiser(AcquisitionHeader(description=description))


@pytest.mark.parametrize(
    ("description", "image_type", "kind"),
    [
        ("", ("DERIVED", "SECONDARY", "MPR"), "a reformatted image"),
        ("MIP sag", (), "a projection"),
        ("", ("DERIVED", "SECONDARY", "PROJECTION IMAGE"), "a projection"),
        ("t1_sag_SUB", (), "a subtraction"),
        ("ep2d_diff_ADC", (), "a diffusion map"),
        ("", ("DERIVED", "PRIMARY", "ADC"), "a diffusion map"),
        ("T2 Map", (), "a parameter map"),
        ("", ("ORIGINAL", "PRIMARY", "P"), "a phase image"),
        ("", ("DERIVED", "PRIMARY", "FF"), "a fat-fraction map"),
    ],
)
def test_derived_images_are_known(description, image_type, kind):
    assert derived_exclusion(AcquisitionHeader(description=description, image_type=image_type)) == kind


@pytest.mark.parametrize(
    "image_type",
    [
        ("ORIGINAL", "PRIMARY", "M", "ND"),
        ("DERIVED", "PRIMARY", "DIXON", "WATER"),
        ("DERIVED", "SECONDARY", "MPR", "COMPOSED"),
        ("DERIVED", "SECONDARY"),
    ],
)
def test_dixon_composed_and_deidentified_images_are_not_derived(image_type):
    assert derived_exclusion(AcquisitionHeader(description="T2 sag", image_type=image_type)) == ""


def test_an_acquired_diffusion_image_is_another_contrast_and_its_map_computed():
    acquired = AcquisitionHeader("SE-EPI sag", image_type=("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"))
    assert derived_exclusion(acquired) == ""
    assert contrast_exclusion(acquired) == "diffusion-weighted"
    adc = AcquisitionHeader("SE-EPI sag", image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC"))
    assert derived_exclusion(adc) == "a diffusion map"


def test_an_original_mpr_is_an_mprage():
    assert derived_exclusion(AcquisitionHeader("t1_mpr_sag", image_type=("ORIGINAL", "PRIMARY", "M"))) == ""
    assert derived_exclusion(AcquisitionHeader("t1_mprage_sag")) == ""
    assert derived_exclusion(AcquisitionHeader("t1_mpr_sag", image_type=("DERIVED", "PRIMARY"))) != ""


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ("ep2d_diff_b800", "diffusion-weighted"),
        ("DWI sag", "diffusion-weighted"),
        ("3D TOF", "flow or angiography"),
        ("T2 FLAIR", "FLAIR"),
        ("myelogram", "a myelography"),
        ("T2 haste myelo", "a myelography"),
        ("mielografia", "a myelography"),
        ("MyeloMR", "a myelography"),
        ("MyeloMRI", "a myelography"),
        ("MyeloMIP", "a myelography"),
        ("MyeloCISS", "a myelography"),
        ("MyeloCube", "a myelography"),
        ("T2 sag Myelon", ""),
        ("T2 sag Myelonkompression", ""),
        ("SAG T2 MYELOMENINGOCELE", ""),
        ("SAG T2 MYELOMALACIA", ""),
        ("SAG T1 Myelozele", ""),
        ("Sag T2 FRFSE myelopathy", ""),
        ("SAG T1 MYELOMA", ""),
        ("SAG T1 ANGIOMA L3", ""),
        ("MR angio", "flow or angiography"),
        ("SAG T2 FLOW COMP", ""),
        ("T2 sag flow compensated", ""),
        ("CSF flow", "flow or angiography"),
        ("PC_flow", "flow or angiography"),
        ("PC FLOW artery", "flow or angiography"),
        ("SAG T2 flow artefact", ""),
        ("SAG T1 DIFFUSE METS", ""),
        ("sag diffusion", "diffusion-weighted"),
        ("perfusion", "perfusion"),
        ("T2 sag performed twice", ""),
        ("T1 FLAIR sag", ""),
        ("T2 sag", ""),
    ],
)
def test_other_contrasts_are_known(description, kind):
    assert contrast_exclusion(AcquisitionHeader(description=description)) == kind
