"""What is changed in ipyniivue's script before a page gets it: how soon a volume is seen, and that it is.

Each change replaces a text that the script of the pinned version holds (tests/visualization/test_viewer.py
watches that); where another version words it otherwise, that text stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A text of the script, and what takes its place.

    Args:
        why: what it is for.
        old: pattern of the text.
        new: its replacement, as `re.sub` takes it.
        count: how often the pinned version holds the text.
    """

    why: str
    old: str
    new: str
    count: int = 1


CHANGES = (
    Change(
        "a volume's voxels are not sent back to the kernel: it was drawn only after all of it was cut up, "
        "copied and sent, which takes longer than drawing it",
        r',(\w+)\.img\)\{let (\w+)=\w+\(\1\.img\);\w+\(\w+,"img",\1\.img\.buffer,\2\)\}',
        r",\1.img){}",
    ),
    Change(
        "lists of layers are loaded one after the other: two at a time make each layer twice, the second "
        "time without its colours, and a small layer overtakes a large volume and is drawn in its place",
        r'async function (\w+)(\(\w+,\w+,\w+\)\{let \w+=await \w+\((\w+),\3\.get\("volumes"\)\))',
        r"function \1(nv,...rest){return nv.ct_turn=Promise.resolve(nv.ct_turn).catch(()=>{})"
        r".then(()=>\1_alone(nv,...rest))}async function \1_alone\2",
    ),
    Change(
        "no copy of the script inside itself, which only `save_html` writes: more than half of what each "
        "canvas sends to the page",
        r'var (\w+)="var%20[^"]{100000,}"',
        r'var \1=""',
    ),
    Change(
        "textures of all voxels (0.9 s for 256 x 256 x 300 without a GPU) are made once for a burst of "
        "changes, of which loading a volume makes five, and not before anything can be drawn; and the planes "
        "of a first volume are drawn before its rendering, which takes as long as they do",
        r"\}updateGLVolume\(\)\{",
        r"}updateGLVolume(){this.ct_soon??=setTimeout(()=>{delete this.ct_soon;"
        r"if(!this._gl||!this.initialized)return;"
        r"let first=!this.ct_seen&&this.volumes.length>0;this.ct_planes=first;this.ct_update();"
        r"if(first){this.ct_seen=true;setTimeout(()=>{this.ct_planes=false;this._gl&&this.drawScene()},30)}"
        r"},this.initialized?120:0)}ct_update(){",
    ),
    Change(
        "nothing is drawn while such a burst lasts",
        r"\}drawScene\(\)\{",
        r"}drawScene(){if(this.ct_soon!==undefined)return;",
    ),
    Change(
        "no rendering while the planes are drawn",
        r"\}(draw3D\(\w+=\[0,0,0,0\][^{}]*\)\{)",
        r"}\1if(this.ct_planes)return;",
    ),
    Change(
        "the range of values of a layer is not looked for where it came with one",
        r"(\}calMinMax\(\w+=Number\.POSITIVE_INFINITY,\w+=!0\)\{)",
        r"\1if(this.trustCalMinMax&&this.hdr&&this.hdr.cal_max>this.hdr.cal_min){"
        r"let low=this.hdr.cal_min,high=this.hdr.cal_max;this.cal_min=this.robust_min=this.global_min=low;"
        r"this.cal_max=this.robust_max=this.global_max=high;return[low,high,low,high]}",
    ),
    Change(
        "the page does not wait for the graphics before there is anything to size",
        r"(\}resizeListener\(\)\{if\()(!\(!this\.canvas\|\|!this\.gl\)\))",
        r"\1this.initialized&&\2",
    ),
    Change(
        "a shader is compiled when it is first used (without a GPU each takes 0.05 to 0.2 s)",
        r'(?<![\w$])([\w$]+)=class\{(constructor\(\w+,\w+,\w+\)\{\w+\(this,"program"\))',
        r"\1=class{constructor(...given){let made,make=()=>made??=new \1_now(...given);return new Proxy({},{"
        r"get:(_,name)=>{let found=make()[name];return typeof found=='function'?found.bind(made):found},"
        r"set:(_,name,value)=>{make()[name]=value;return true}})}},\1_now=class{\2",
    ),
    Change(
        "no shaders for meshes, of which there are none",
        r'(for\(let (\w+)=)0(;\2<this\.meshShaders\.length;\2\+\+\)\{let \w+=[^{}]*\.Name==="Flat")',
        r"\1this.meshShaders.length\3",
    ),
    Change(
        "one shader for the rendering, not four: light from gradients and slices in space are not offered",
        r"this\.(render(?:Slice|Gradient|GradientValues)Shader)=new \w+\(\w+,\w+,\w+\)",
        r"this.\1=this.renderVolumeShader",
        count=3,
    ),
)


def changed(script: str) -> str:
    """ipyniivue's script with all `CHANGES` that find their text."""
    for change in CHANGES:
        script = re.sub(change.old, change.new, script)
    return script
