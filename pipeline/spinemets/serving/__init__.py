"""A DICOM node that analyses what it is sent and sends its results on.

    receiver, pulling ─→ inbox ─→ study_queue ─→ analysis ─→ delivery
                                                    remotes (DIMSE, DICOMweb) ─┘

What has been received, and what is still to be done with it, is on the disk before anybody is
told so: the process may be killed at any moment. Knows nothing of the command line.
"""
