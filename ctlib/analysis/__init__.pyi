from . import compare as compare
from . import findings as findings
from . import predict as predict
from . import preregistration as preregistration
from . import published as published
