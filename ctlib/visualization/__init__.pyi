from . import figures as figures
from . import summary_tables as summary_tables
from . import viewer as viewer
from .gradcam import Sight as Sight
from .html import png as png
from .scores import clip_scores as clip_scores
from .style import percent as percent
from .style import signed as signed
