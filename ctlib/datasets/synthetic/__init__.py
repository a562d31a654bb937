"""Data that generate themselves: chests as DICOM, with lesions and readers, and videos of moving discs."""
