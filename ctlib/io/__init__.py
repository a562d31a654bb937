"""Files to volumes in HU: DICOM and NIfTI, their headers checked, every refusal with its reason."""
