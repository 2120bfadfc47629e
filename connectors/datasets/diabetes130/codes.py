"""What the file's ids mean in FHIR's words, by their texts in its IDS_mapping.csv."""

from __future__ import annotations

from schemas.intake.dispositions import AGAINST_ADVICE, DIED, TRANSFERRED

EMERGENCY, URGENT, ELECTIVE = "EM", "UR", "EL"  # v3-ActPriority

# admission_type_id → Encounter.priority; None where the text says nothing of it.
PRIORITY = {
    "1": EMERGENCY,
    "2": URGENT,
    "3": ELECTIVE,
    "4": None,  # newborn
    "5": None,  # not available
    "6": None,  # NULL
    "7": EMERGENCY,  # trauma center
    "8": None,  # not mapped
}

# admission_source_id → admit-source; the texts of the others name none of its codes.
ADMIT_SOURCE = {
    "2": "outp",  # clinic referral
    "4": "hosp-trans",  # from a hospital
    "5": "nursing",  # from a skilled nursing facility
    "7": "emd",  # emergency room
    "10": "hosp-trans",  # from a critical access hospital
    "11": "born",  # normal delivery
    "12": "born",  # premature delivery
    "13": "born",  # sick baby
    "14": "born",  # extramural birth
    "22": "hosp-trans",  # from inpatient care of the same facility, as a separate claim
    "23": "born",  # born inside this hospital
    "24": "born",  # born outside this hospital
}

# discharge_disposition_id → discharge-disposition. `other-hcf` stands for acute care, which ends no episode: such
# stays are no index stays.
DISPOSITION = {
    "1": "home",  # home
    "2": TRANSFERRED,  # short term hospital: acute
    "3": "snf",  # skilled nursing facility
    "4": "long",  # intermediate care facility: care that lasts, not acute
    "5": TRANSFERRED,  # another type of inpatient care institution: inpatient, and none of the kinds named elsewhere
    "6": "home",  # home with home health service
    "7": AGAINST_ADVICE,  # left AMA
    "8": "home",  # home under care of a home IV provider
    "9": TRANSFERRED,  # admitted as an inpatient to this hospital: the inpatient care goes on
    "10": TRANSFERRED,  # neonate, to another hospital
    "11": DIED,  # expired
    "12": "oth",  # still patient, or expected to return for outpatient services
    "13": "hosp",  # hospice, at home
    "14": "hosp",  # hospice, medical facility
    "15": "snf",  # swing bed of this institution: a hospital's bed used for skilled nursing care
    "16": "oth",  # outpatient services of another institution
    "17": "oth",  # outpatient services of this institution
    "18": None,  # NULL
    "19": DIED,  # expired at home, hospice
    "20": DIED,  # expired in a medical facility, hospice
    "21": DIED,  # expired, place unknown, hospice
    "22": "rehab",  # rehabilitation facility or unit
    "23": "long",  # long term care hospital
    "24": "long",  # nursing facility certified under Medicaid only: long-term care
    "25": None,  # not mapped
    "26": None,  # unknown or invalid
    "27": TRANSFERRED,  # federal health care facility: a hospital of the army or the veterans
    "28": "psy",  # psychiatric hospital or unit
    "29": TRANSFERRED,  # critical access hospital: a small acute one
    "30": "oth",  # another type of health care institution, not defined elsewhere
}

GENDER = {"Female": "female", "Male": "male", "Unknown/Invalid": "unknown"}

# The bracket's middle, in years.
AGE_YEARS = {f"[{low}-{low + 10})": low + 5 for low in range(0, 100, 10)}

DRUGS = (
    *("metformin", "repaglinide", "nateglinide", "chlorpropamide", "glimepiride", "acetohexamide", "glipizide"),
    *("glyburide", "tolbutamide", "pioglitazone", "rosiglitazone", "acarbose", "miglitol", "troglitazone"),
    *("tolazamide", "examide", "citoglipton", "insulin", "glyburide-metformin", "glipizide-metformin"),
    *("glimepiride-pioglitazone", "metformin-rosiglitazone", "metformin-pioglitazone"),
)
