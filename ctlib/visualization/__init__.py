"""What people look at: figures, small tables, and the viewer in JupyterLab."""
