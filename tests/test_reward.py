"""The grader: right answers recognised, wrong ones never, nothing executed, nothing hangs.

The reference is the table below, written by hand from README's "what a right answer is", and rewriting
of generated expressions whose value is known.  Real golds and labelled pairs are used where DSRL_DATA
names the folder that holds them.

    python -m pytest tests/test_reward.py -q
"""
import collections
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import reward

CASES = {  # kind: (predicted, ground truth, right?)
    "number": [
        ('42.0', '42', True), ('+5', '5', True), ('1,000,000', '1000000', True),
        ('1{,}000', '1000', True), ('1\\,000', '1000', True), ('1 000 000', '1000000', True),
        ('-0', '0', True), ('−5', '-5', True), ('5.', '5', True), ('0.5', '0.50', True),
        ('.50', '0.5', True), ('1,00', '100', False), ('12,34', '1234', False),
        ('5.0001', '5', False), ('5.000001', '5', False), ('4.9999999', '5', False),
        ('3.14159', '\\pi', True), ('3.14', '\\pi', False), ('0.33', '1/3', False),
        ('0.3333333', '1/3', True), ('0.66667', '2/3', False), ('0.666667', '2/3', True),
        ('１２', '12', True), ('--5', '5', True), ('1e400', '1', False), ('27', '27.0', True),
        ('100200', '100,200', True), ('100, 200', '100,200', True), ('1.0e3', '1000', True),
        ('-7', '7', False), ('7', '7!', False), ('5!', '120', True), ('**12**', '12', True),
        ('12.', '12.0', True), ('0.1+0.2', '0.3', True),
    ],
    "fraction": [
        ('\\frac12', '0.5', True), ('\\dfrac{3}{4}', '3/4', True), ('\\tfrac34', '0.75', True),
        ('-\\frac{1}{2}', '\\frac{-1}{2}', True), ('\\frac{1}{-2}', '-\\frac12', True),
        ('6/8', '3/4', True), ('\\frac{1}{2} + \\frac13', '5/6', True),
        ('\\frac{14}{3}', '14/3', True), ('\\frac{1}{3}', '0.333', False), ('1/0', '1', False),
        ('0/0', '0', False), ('\\frac{\\frac12}{3}', '1/6', True), ('3/4', '4/3', False),
        ('\\frac{3}{4}.', '3/4', True), ('\\left(\\frac{1}{2}\\right)', '1/2', True),
        ('½', '1/2', True), ('3½', '3.5', True), ('\\frac 1 2', '1/2', True),
        ('\\frac{105}{1000}', '0.105', True), ('1/2/3', '1/6', True),
    ],
    "percent": [
        ('50\\%', '50', True), ('50%', '1/2', True), ('0.5', '50%', True), ('50', '50%', True),
        ('5', '50%', False), ('50', '0.5', False), ('0.5%', '50', False),
        ('50 percent', '50%', True), ('12.5\\%', '1/8', True), ('5000%', '50%', False),
        ('33.3333%', '1/3', True), ('25\\text{ percent}', '25\\%', True),
        ('25\\,\\%', '25\\%', True),
    ],
    "units": [
        ('5 cm', '5', True), ('5\\text{ cm}^2', '5', True), ('5 \\, \\mathrm{cm}', '5', True),
        ('60 km/h', '60', True), ('10 m/s', '10', True), ('\\$18.90', '18.90', True),
        ('$18.90', '18.9', True), ('30^{\\circ}', '30', True), ('30°', '30', True),
        ('30 degrees', '30', True), ('45\\text{ degrees}', '45', True), ('12 apples', '12', True),
        ('15 square meters', '15', True), ('8\\sqrt{3}\\text{ square inches}', '8\\sqrt{3}', True),
        ('8\\sqrt{3}{squareinches}', '8\\sqrt{3}', True), ('5 dollars', '5', True),
        ('€5', '5', True), ('6.5 \\mathrm{~m}', '6.5', True),
        ('3\\times 10^8 \\mathrm{~m}/\\mathrm{s}', '300000000', True), ('5\\text{ m}', '5', True),
        ('5 cm', '6 cm', False), ('5x', '5', False), ('10\\mbox{ cm}^2', '10', True),
        ('100^\\circ C', '100', True), ('2 hours', '2', True), ('3 days', '3', True),
        ('50 \\text{ miles per hour}', '50', True), ('5 meters', '5 feet', True),
        ('7 cents', '7', True), ('x = 12\\text{ cm}', '12', True), ('90^\\circ', '90', True),
        ('5 L', '5', True), ('5 m', '5', True), ('10 kg', '10', True),
        ('9.8 \\text{ m/s}^2', '9.8', True), ('\\text{\\$}5', '5', True),
        ('500 \\text{ mL}', '500', True),
    ],
    "mixed": [
        ('3\\frac{1}{2}', '3.5', True), ('3 1/2', '7/2', True), ('-2\\frac{3}{4}', '-2.75', True),
        ('1 \\frac{2}{3}', '5/3', True), ('1\\frac12', '1/2', False), ('11/2', '5.5', True),
        ('1.5\\times 10^3', '1500', True), ('1.5 \\cdot 10^{-3}', '0.0015', True),
        ('6.02e23', '6.02\\times10^{23}', True), ('1e-3', '0.001', True),
        ('2*10^5', '200000', True), ('2E5', '200000', True), ('3 x 10^4', '30000', True),
        ('5\\frac{3}{4}', '23/4', True), ('5\\frac{3}{4}', '15/4', False),
    ],
    "base": [
        ('101_2', '101_2', True), ('101_{2}', '101_2', True), ('101_{\\text{two}}', '101_2', True),
        ('101', '101_2', False), ('101_3', '101_2', False), ('42_{10}', '42', True),
        ('2516_8', '2516_{8}', True), ('1A_{16}', '1A_{16}', True), ('1B_{16}', '1A_{16}', False),
        ('0101_2', '101_2', True), ('4210_{5}', '4210_5', True),
    ],
    "numeric": [
        ('\\sqrt{8}', '2\\sqrt{2}', True), ('\\frac{1}{\\sqrt{2}}', '\\frac{\\sqrt{2}}{2}', True),
        ('\\sqrt{3+2\\sqrt2}', '1+\\sqrt2', True), ('\\sqrt[3]{-8}', '-2', True),
        ('(-8)^{1/3}', '-2', True), ('8^{2/3}', '4', True), ('\\sqrt{-4}', '2i', True),
        ('i^2', '-1', True), ('(1+i)^2', '2i', True), ('\\frac{1}{1+i}', '\\frac{1-i}{2}', True),
        ('e^{i\\pi}', '-1', True), ('\\sqrt{2}+\\sqrt{3}', '\\sqrt{5+2\\sqrt6}', True),
        ('\\sqrt{2}+\\sqrt{3}', '\\sqrt{5}', False), ('2\\pi', '\\pi 2', True),
        ('2pi', '2\\pi', True), ('\\frac{\\pi}{6}', '30', False),
        ('\\frac{4}{3}\\pi', '\\frac{4\\pi}{3}', True), ('2^{10}', '1024', True),
        ('10^{100}', '10^{100}+1', False), ('\\frac{5!}{3!2!}', '10', True),
        ('\\binom{5}{2}', '10', True), ('\\log_2 8', '3', True), ('\\log_{10} 1000', '3', True),
        ('\\ln e^2', '2', True), ('\\ln 4', '2\\ln 2', True),
        ('\\log_2 3', '\\frac{\\ln 3}{\\ln 2}', True), ('\\ln 2', '\\log 2', True),
        ('\\ln 2', '\\ln 3', False), ('\\log 100', '2', True),
        ('\\sin 30^\\circ', '\\frac12', True), ('\\cos\\frac{\\pi}{3}', '0.5', True),
        ('\\tan 45^\\circ', '1', True), ('\\sin 30', '1/2', False),
        ('\\arctan 1', '\\frac{\\pi}{4}', True), ('\\tan^{-1}(1)', '\\pi/4', True),
        ('\\sin^2 30^\\circ', '1/4', True), ('\\cos 20^\\circ', '\\sin 70^\\circ', True),
        ('\\arccos\\left(\\frac12\\right)', '\\frac{\\pi}{3}', True),
        ('\\sec 60^\\circ', '2', True), ('\\lfloor 3.7 \\rfloor', '3', True),
        ('\\lceil \\pi \\rceil', '4', True), ('|{-3}|', '3', True),
        ('\\left|-3\\right|', '3', True), ('|3-5|', '2', True), ('\\gcd(12,18)', '6', True),
        ('\\max(1,2)', '2', True), ('1+2+3', '6', True), ('2^{-1}', '0.5', True),
        ('(2)(3)', '6', True), ('2 \\times 3 \\times 5', '30', True), ('3\\cdot 4 - 2', '10', True),
        ('2 3', '6', False), ('\\sqrt 2', '\\sqrt{2}', True), ('\\sqrt2', '2^{1/2}', True),
        ('sqrt(2)/2', '\\frac{\\sqrt2}{2}', True), ('\\sqrt{50}', '5\\sqrt2', True),
        ('1.41421356', '\\sqrt2', True), ('1.414', '\\sqrt2', False),
        ('e^{\\pi\\sqrt{163}}', '262537412640768744', False),
        ('\\frac{1+\\sqrt5}{2}', '\\frac{\\sqrt5+1}{2}', True),
        ('\\frac{\\sqrt{6}-\\sqrt{2}}{4}', '\\cos 75^\\circ', True),
        ('7^{2010}', '7^{2011}', False), ('2^{20} \\cdot 3', '3\\cdot 4^{10}', True),
        ('100!', '100!', True), ('\\infty', '\\infty', True), ('-\\infty', '\\infty', False),
        ('+\\infty', '\\infty', True), ('infinity', '\\infty', True), ('\\cosh 0', '1', True),
        ('0^0', '1', False), ('\\frac{9\\sqrt{3}}{4}', '\\frac94\\sqrt3', True),
    ],
    "symbolic": [
        ('2x+3', '3+2x', True), ('(x+1)^2', 'x^2+2x+1', True), ('x^2-1', '(x-1)(x+1)', True),
        ('x*y', 'yx', True), ('\\frac{x}{2}', '0.5x', True), ('x^{1/2}', '\\sqrt{x}', True),
        ('\\sqrt{x^2}', '|x|', True), ('\\sqrt{x^2}', 'x', False),
        ('\\frac{x^2-1}{x-1}', 'x+1', True), ('x+1', 'x-1', False), ('2x', '2y', False),
        ('x', 'X', False), ('\\sin^2 x+\\cos^2 x', '1', True),
        ('\\sin 2x', '2\\sin x\\cos x', True), ('\\tan x', '\\frac{\\sin x}{\\cos x}', True),
        ('e^{x+y}', 'e^x e^y', True), ('\\ln(xy)', '\\ln x+\\ln y', True),
        ('\\ln\\frac{x}{y}', '\\ln x-\\ln y', True), ('2^{n+1}', '2\\cdot 2^n', True),
        ('\\frac{n(n+1)}{2}', '\\frac{n^2+n}{2}', True),
        ('\\binom{n}{2}', '\\frac{n(n-1)}{2}', True), ('n!', 'n(n-1)!', True),
        ('a_1+a_2', 'a_{2}+a_{1}', True), ('a_1', 'a_2', False),
        ('\\alpha+\\beta', '\\beta+\\alpha', True), ('\\cotx', '\\frac{1}{\\tan x}', True),
        ('2\\sinb\\cosa', '2\\sin b\\cos a', True), ('x^2 y', 'yx^2', True), ('xyz', 'zyx', True),
        ('\\frac{a+b}{c}', '(a+b)/c', True), ('a+b/c', '\\frac{a+b}{c}', False),
        ('-(x-1)', '1-x', True), ('x**2', 'x^2', True), ('3x^2+2x+1+0', '3x^{2}+2x+1', True),
        ('2\\sqrt{x}', '\\sqrt{4x}', True), ('x^2+C', 'x^2+C', True),
        ('(-1)^n', '(-1)^{n+2}', True), ('\\frac{1}{x+1}', '\\frac{1}{1+x}', True),
        ('1000000x+0.5', '1000000x+0.7', False), ('y^2+y', 'y(y+1)', True),
        ('x\\sin x', '\\sin(x)x', True), ('\\sin(x)/x', '\\frac{\\sin x}{x}', True),
        ('e^{-2t}\\cos 3t', '\\cos(3t)e^{-2t}', True), ('\\sqrt{ab}', '\\sqrt{a}\\sqrt{b}', True),
        ('p^2-q', 'p^2-q+1', False),
        ('\\left\\lfloor\\frac{n}{2}\\right\\rfloor', '\\lfloor n/2\\rfloor', True),
        ('\\overline{AB}', 'AB', True), ('x^{2}+3x', 'x^2+3 x', True), ('R', 'r', False),
        ('\\frac{d !}{2 k(d-k) !}', '\\frac{d!}{2k(d-k)!}', True),
        ('\\frac{x}{y}', '\\frac{y}{x}', False), ('4x^3', '12x^2', False),
        ('\\frac{2}{x}', '2x^{-1}', True), ('\\theta', '\\phi', False),
    ],
    "equation": [
        ('x=5', '5', True), ('5', 'x=5', True), ('x = 5', 'x=5', True), ('y=5', 'x=5', False),
        ('5=x', '5', True), ('x+3=42', '42', False), ('42=43', '42', False), ('42=43', '43', False),
        ('42=42', '42', True), ('y=2x+3', '2x+3', True), ('y=2x+3', 'y=3+2x', True),
        ('2x-y+3=0', 'y=2x+3', True), ('x+y=2', '2x+2y=4', True), ('x+y=2', 'x+y=3', False),
        ('f(x)=x^2', 'x^2', True), ('f(x)=x^2', 'f(x)=x^2+1', False),
        ('x^2+y^2=25', '25=x^2+y^2', True),
        ('\\frac{x^2}{9}+\\frac{y^2}{4}=1', '4x^2+9y^2=36', True), ('AB = 5', '5', True),
        ('S = 10', '10', True), ('\\angle ABC = 30^\\circ', '30', True), ('x=1/2=0.5', '1/2', True),
        ('a=1,b=2', '(1,2)', True), ('a=1, b=2', 'b=2, a=1', True), ('a=2, b=1', 'a=1, b=2', False),
        ('x=2 or x=3', '2,3', True), ('x=2, 3', '2,3', True), ('x_1=2, x_2=3', '3,2', True),
        ('x=2\\text{ or }x=3', '\\{2,3\\}', True), ('P(x)=x+1', 'x+1', True), ('2x=10', '5', False),
        ('n=5', 'm=5', False), ('x \\approx 8.24', '8.24', True), ('area = 12', '12', True),
        ('y=x', 'x=y', True), ('x=5', 'x=6', False), ('a_n = 2n+1', '2n+1', True),
        ('y-2=3(x-1)', 'y=3x-1', True), ('f^{-1}(x)=x-1', 'x-1', True), ('x=5', 'x>5', False),
        ('\\sqrt{2}=1.41421356', '\\sqrt2', True), ('(x,y)=(1,2)', '(1,2)', True),
        ("y'+ry-rx=0", "ry+y'=rx", True), ('x=3,y=4', '3,4', True), ('z = 1+i', '1+i', True),
        ('5 = 5 = 6', '5', False), ('k=1,2', '1,2', True),
    ],
    "inequality": [
        ('x<3', '(-\\infty,3)', True), ('x \\le 3', '(-\\infty,3]', True),
        ('x<3', 'x\\le 3', False), ('3>x', 'x<3', True), ('x>5', '5', False),
        ('1<x<2', '(1,2)', True), ('1 \\leq x < 2', '[1,2)', True), ('2>x>1', '(1,2)', True),
        ('x<3', 'y<3', False), ('x \\ne 3', '(-\\infty,3)\\cup(3,\\infty)', True),
        ('x>1 or x<-1', '(-\\infty,-1)\\cup(1,\\infty)', True),
        ('\\{x \\mid x>3\\}', '(3,\\infty)', True), ('\\{x : x>3\\}', 'x>3', True),
        ('\\{x \\in \\mathbb{R} : x \\ge 3\\}', '[3,\\infty)', True), ('x+y<3', 'y+x<3', True),
        ('2x<6', 'x<3', True), ('-2x<6', 'x>-3', True), ('x>=2', 'x\\geqslant 2', True),
        ('k \\geqslant 2', 'k \\ge 2', True), ('x<3', 'x>3', False),
        ('x \\in (2,5)', '2<x<5', True), ('0 < x', 'x>0', True), ('> 5', 'x>5', True),
    ],
    "interval": [
        ('[0,1)', '[0, 1)', True), ('[0,1]', '(0,1)', False), ('[0,1]', '[1,0]', False),
        ('(-\\infty,2)\\cup(3,\\infty)', '(3,\\infty)\\cup(-\\infty,2)', True),
        ('(-\\infty,0]\\cup[0,\\infty)', '\\mathbb{R}', True),
        ('(-\\infty,\\infty)', '\\mathbb{R}', True),
        ('\\mathbb{R}\\setminus\\{3\\}', '(-\\infty,3)\\cup(3,\\infty)', True),
        ('[1,2]\\cup[2,3]', '[1,3]', True), ('[1,2)\\cup(2,3]', '[1,3]', False),
        ('x\\in[1,2]', '[1,2]', True), ('[\\frac12, \\infty)', '[0.5,\\infty)', True),
        ('\\left[0, \\sqrt{2}\\right]', '[0,\\sqrt2]', True), ('(-oo, 3)', '(-\\infty,3)', True),
        ('(-\\infty, 2) U (3, \\infty)', '(-\\infty,2)\\cup(3,\\infty)', True),
        ('(1,2)\\cup\\{3\\}', '\\{3\\}\\cup(1,2)', True), ('\\varnothing', '\\emptyset', True),
        ('\\emptyset', '0', False), ('(2,3)\\cap(2.5,4)', '(2.5,3)', True),
        ('(0,9)\\cup(9,36)', '(0,36)', False), ('(1,3)', '\\{2\\}', False), ('[2,4]', '2,4', False),
        ('(-\\infty,3)', '(-\\infty,4)', False),
    ],
    "tuple": [
        ('(1,2)', '(1, 2)', True), ('(1,2)', '(2,1)', False), ('(1/2, 3)', '(0.5,3)', True),
        ('(1,2,3)', '(1,2)', False), ('\\left(3,\\frac{\\pi}{2}\\right)', '(3,\\pi/2)', True),
        ('(1,2),(3,4)', '(3,4),(1,2)', True), ('(1,2),(3,4)', '(2,1),(3,4)', False),
        ('(100,200)', '100200', False), ('(1,234)', '1234', False), ('(x,y)', '(y,x)', False),
        ('1,2,3', '(1,2,3)', True), ('(0,1)', '0,1', False), ('((1,2),3)', '(1,(2,3))', False),
        ('(1\\pm\\sqrt2, 1\\mp\\sqrt2)', '(1+\\sqrt2,1-\\sqrt2),(1-\\sqrt2,1+\\sqrt2)', True),
        ('\\langle 1,2\\rangle', '(1,2)', True), ('(5)', '5', True),
        ('(a,b,c)=(1,2,3)', '(1,2,3)', True),
    ],
    "list": [
        ('1,2,3', '3,2,1', True), ('1, 2', '1, 2, 3', False), ('1,1,2', '1,2', False),
        ('1,2', '1,1,2', False), ('\\{1,2\\}', '2,1', True), ('\\{1,2\\}', '\\{2,1\\}', True),
        ('1 and 2', '1,2', True), ('1\\text{ and }2', '1,2', True), ('1 or 2', '1,2', True),
        ('1; 2', '1,2', True), ('5, 6', '5', False), ('5', '5, 6', False), ('5 or 6', '5', False),
        ('\\pm 3', '3,-3', True), ('\\pm 3', '3', False),
        ('2\\pm\\sqrt3', '2+\\sqrt3, 2-\\sqrt3', True),
        ('\\frac{1\\pm\\sqrt5}{2}', '\\frac{1+\\sqrt5}{2},\\frac{1-\\sqrt5}{2}', True),
        ('\\pm 1, \\pm 2', '1,-1,2,-2', True), ('x=\\pm 2', '2,-2', True),
        ('x = 1 \\pm \\sqrt{19}', '1 \\pm \\sqrt{19}', True), ('1, 2, and 3', '1,2,3', True),
        ('1,2,3,', '1,2,3', True), ('1,\\ 2,\\ 3', '1,2,3', True), ('1, 2, 4', '1,2,3', False),
        ('+-3', '3,-3', True), ('[1,2,3]', '1,2,3', True), ('1000, 2000', '1,000, 2,000', True),
        ('-3 \\quad \\text{and} \\quad 4', '4,-3', True),
        ('Softball, Kickball, Picnic', '{Softball,Kickball,Picnic}', True),
        ('1/2, 0.25', '0.5, 1/4', True), ('a, b', 'b, a', True), ('{1,2,3}', '1,2,3', True),
    ],
    "matrix": [
       
        ('\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', '\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}', True),
        ('\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', '\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}', False),
        ('\\begin{pmatrix} -6 \\\\ 9 \\end{pmatrix}', '\\begin{pmatrix}-6\\9\\end{pmatrix}', True),
        ('\\begin{pmatrix} 0&0 \\\\ 0&0 \\end{pmatrix}', '\\begin{pmatrix}0&0\\0&0\\end{pmatrix}', True),
        ('\\frac12\\begin{pmatrix}2\\\\4\\end{pmatrix}', '\\begin{pmatrix}1\\\\2\\end{pmatrix}', True),
        ('\\begin{pmatrix}1\\\\2\\end{pmatrix}', '\\begin{pmatrix}1&2\\end{pmatrix}', False),
        ('[[1,2],[3,4]]', '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', True),
        ('\\begin{pmatrix}1\\\\2\\end{pmatrix}', '(1,2)', True),
        ('\\begin{pmatrix}1&2\\\\3&4\\\\\\end{pmatrix}', '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', True),
        ('\\begin{bmatrix}x+1\\\\2\\end{bmatrix}', '\\begin{pmatrix}1+x\\\\2\\end{pmatrix}', True),
        ('\\begin{array}{cc}1&2\\\\3&4\\end{array}', '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', True),
        ('\\begin{pmatrix} -1/2 \\\\ 5/2 \\\\ 1 \\end{pmatrix}', '\\begin{pmatrix}-1/2\\5/2\\1\\end{pmatrix}', True),
        ('A=\\begin{pmatrix}1\\\\2\\end{pmatrix}', '\\begin{pmatrix}1\\\\2\\end{pmatrix}', True),
        ('\\begin{pmatrix} \\frac{3}{5} & \\frac15 \\\\ 0 & 1 \\end{pmatrix}', '\\begin{pmatrix}3/5&1/5\\0&1\\end{pmatrix}', True),
        ('-\\begin{pmatrix}1\\\\2\\end{pmatrix}', '\\begin{pmatrix}-1\\\\-2\\end{pmatrix}', True),
    ],
    "ratio": [
        ('3:4', '3:4', True), ('6:8', '3:4', True), ('3:4', '4:3', False), ('1:2:3', '2:4:6', True),
        ('1:2:3', '1:3:2', False), ('3/4', '3:4', True), ('\\frac34', '3:4', True),
        ('3 : 4', '3:4', True), ('3\\text{ to }4', '3:4', True),
        ('\\sqrt{2}:1', '2:\\sqrt{2}', True), ('a:b=3:4', '3:4', True),
    ],
    "choice": [
        ('(B)', 'B', True), ('\\text{(B)}', 'B', True), ('\\textbf{(B)}', 'B', True),
        ('B) 12', 'B', True), ('b', 'B', True), ('A', 'B', False), ('A, B', 'A', False),
        ('(A) 5', 'A', True), ('\\textbf{(A)}\\ 5', 'A', True), ('B.', 'B', True),
        ('option C', 'C', True), ('\\mathbf{D}', 'D', True), ('AB', 'A', False),
        ('A or B', 'A', False), ('(C)', '{(C)}', True), ('ABC', 'ABC', True), ('5', 'A', False),
        ('Apple', 'A', False), ('A.', '(A) Alina', True), ('(B) Bob', '(A) Bob', False),
        ('Choice (E)', 'E', True),
    ],
    "text": [
        ('Yes', 'yes', True), ('\\text{yes}', 'Yes', True), ('No', 'Yes', False),
        ('\\text{two lines}', '{twolines}', True), ('New York', 'new york city', False),
        ('\\text{Monday}', '{Monday}', True), ('October 30', '{October30}', True),
        ('none', '0', False), ('True', 'true', True), ('True', 'False', False),
        ('\\text{no solution}', 'no solution', True), ('even', 'odd', False),
        ('odd', 'even', False), ('\\text{Evelyn}', 'Evelyn', True), ('ellipse', 'parabola', False),
        ('Navin.', '{Navin}', True), ('east', 'East', True), ('seat', 'east', False),
        ('on', 'no', False), ('May 5', 'May 6', False), ('the answer', '5', False),
        ('', '0', False), ('5 or so', '5', False), ('\\text{ even }', 'even', True),
        ('undefined', 'undefined', True), ('DNE', 'dne', True), ('ten', 'net', False),
        ('Tuesday', 'Thursday', False),
    ],
}


@pytest.mark.parametrize("kind", CASES)
def test_cases(kind):
    """Any rule of the policy that is missing or too generous."""
    wrong = [(predicted, gold) for predicted, gold, right in CASES[kind]
             if reward.equal(predicted, gold) != right]
    assert not wrong


def test_cases_in_a_box_and_the_other_way_round():
    """An extraction that changes the answer; a comparison that depends on the order of its sides."""
    one_way = {("10 m/s", "10"), ("100^\\circ C", "100"), ("5 L", "5"), ("5 m", "5")}  # unit letters
    for predicted, gold, right in itertools.chain(*CASES.values()):
        if predicted:
            assert reward.score(f"So we get $\\boxed{{{predicted}}}$.", gold) == right, (predicted, gold)
        if (predicted, gold) not in one_way:
            assert reward.equal(gold, predicted) == right, (predicted, gold)


EXTRACTIONS = [  # response, strict extraction, loose extraction
    (r"\boxed{7}", "7", "7"), (r"\boxed {7}", "7", "7"), (r"\fbox{7}", "7", "7"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1}{2}"), (r"\boxed{1} then \boxed{2}", "2", "2"),
    (r"\boxed{1} and \boxed{2}", "1, 2", "1, 2"), (r"\boxed{1}, \boxed{2} or \boxed{3}", "1, 2, 3", "1, 2, 3"),
    (r"$\boxed{1}$ \quad \text{and} \quad $\boxed{2}$", "1, 2", "1, 2"), (r"\boxed{5} \boxed{5}", "5", "5"),
    (r"\boxed{7} or so. Then \boxed{", None, None), (r"\boxed{7}. Final: \boxed{}", None, None),
    (r"\boxed{\frac{1}{2}", None, None), (r"\boxed{3}</think> so it is 4", None, None),
    (r"<think>\boxed{3}</think>\boxed{4}", "4", "4"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}", r"\{1, 2\}"),
    (r"\boxed{185\}", "185\\", "185\\"), ("<answer>12</answer>", None, "12"), ("#### 1\n#### 1,234\nok", None, "1,234"),
    ("<answer>12", None, None), ("The answer is 12.", None, "12"), ("Answer: 3.5. Bye", None, "3.5"),
    ("The answer is $x=2$, because 3.", None, "x=2"), ("Final Answer: **73**", None, "73"),
    ("The answer is \\(7\\) or not", None, "7"), ("the answer is B because (A) is wrong", None, "B"),
    ("we compute 12 then 15", None, None), ("", None, None), ("The answer is 12 apples.", None, "12 apples"),
    ("Answer: 5<|im_end|>\n<|im_start|>user\nAnswer: 6", None, "5"), (r"\boxed{\boxed{3}}", r"\boxed{3}", r"\boxed{3}"),
]


@pytest.mark.parametrize("response, strict, loose", EXTRACTIONS)
def test_extract(response, strict, loose):
    """A lost brace, a fallback in strict mode, the first instead of the last box, a rewarded open box."""
    assert reward.extract_answer(response) == strict
    assert reward.extract_answer(response, loose=True) == loose


# ---- attacks: none may be right, slow, or have an effect -----------------------------------------

def attacks():
    """(response, ground truth) pairs that must not be rewarded."""
    code = ["__import__('os').system('touch PWNED')", "open('PWNED','w')", "exec('1')", "eval('42')", "42 if True else 0",
            "(lambda: 42)()", "[42 for _ in [1]][0]", "().__class__.__bases__", "`42`", "$(echo 42)",
            "sympy.Integer(42)", "Integer(42)", "S(42)", "N(42)", "f'{42}'", "int('42')", "42#", "42;import os", "a=42;a",
            "float('nan')", "globals()", "x.__init__", "print(42)", r"\input{/etc/passwd}", r"\write18{touch PWNED}",
            r"\def\a{42}\a", r"\newcommand{\x}{42}\x", "True", "None", "42.__class__", "os.environ", "<script>42</script>"]
    towers = ["9**9**9**9", "9^{9^{9^9}}", "2^{10^{10}}", "10^{10^{100}}", "(10^{99})!", "1000000!", "99999!!", "((9!)!)!",
              r"\binom{10^9}{5\cdot 10^8}", r"\gcd(10^{9999},10^{9998})", "1e999999999", "1e-999999999", "9"*1999,
              "0."+"3"*1900, r"e^{e^{e^{e^{9}}}}", r"\exp(\exp(\exp(99)))", r"\sin(10^{10^{5}})", r"\ln(10^{10^{9}})",
              r"\lfloor 10^{6000}\pi \rfloor", r"\sqrt{" * 60 + "2" + "}" * 60, "2^" * 300 + "2", "x^" * 200 + "2",
              "+".join(["x^{99}"] * 120), "*".join(["99999999999"] * 190), "/".join(["7^{99}"] * 150),
              "(x+1)^{99999}", "(x+y+z)^{1000}(x-y)^{1000}", r"\frac1" * 300, "1/" * 600 + "1", r"\cosh(10^{9})",
              r"\Gamma(10^9)", "(0.1)^{99999999}", r"\log_{1}5", r"\log_0 5", r"\tan 90^\circ", "1/0", "0^{-1}", "0/0",
              r"\infty-\infty", r"\frac{\infty}{\infty}", r"\sum_{k=1}^{10^{10}} k", r"\int_0^{9^{9^9}} x", "10^{-10^{10}}",
              r"\pm" * 30 + "1", r"1\pm2\pm3\pm4\pm5\pm6\pm7", ",".join(str(i) for i in range(190)), ",".join(["x"] * 190),
              ",".join(rf"\sqrt{{{i}}}" for i in range(60)), r"\cup".join(f"({i},{i+1})" for i in range(60))]
    texts = ["(" * 1000, ")" * 1000, "[" * 900 + "]" * 900, "{" * 999, r"\{" * 500, r"\frac{" * 300, r"\left(" * 300,
             "-" * 1900, "!" * 1900, "^" * 1000, "_" * 1000, "|" * 1999, "a" * 1999, "a b " * 499, "1 " * 999, "1,000" * 300,
             "," * 1999, "1," * 999, "$" * 1999, "\\" * 1999, r"\boxed{" * 280, " " * 1999 + "x", "0" * 1999 + "x", "." * 1999,
             "and " * 450, r"\text{" * 300, r"\text{a}" * 280, r"\begin{pmatrix}" * 130, r"\begin{pmatrix}" + "1&" * 800,
             "&" * 1000, r"\\" * 999, "=" * 1999, "x=" * 900, "<" * 1999, "1<" * 900, "\n" * 1999, "\t1" * 900, "'" * 1900,
             "x'" * 900, "%" * 1900, r"\sqrt[" * 300, r"\sin" * 499, "sin" * 600, r"\log_" * 390, r"\cup" * 490,
             "1\\frac12" * 240, "((((1,2),3),4),5)" * 100, "é" * 1999, "\u0000" * 999, "\U0001d7d9" * 999, "\u202e24", "²" * 900,
             "½" * 900, "\ufdfa" * 900, "①②③", "٤٣", "４３", "𝟒𝟑", "\ud800", "४३", "〇", "Ⅳ", "\u200b\u200b", "🙂", "4\u20e32"]
    hedges = ["41 or 42", "41, 42", "42, 41", r"\{41, 42\}", "41/42", "42 or 41", "(42, 41)", r"42 \pm 1", "[41, 43]", "41 < x < 43",
              "x > 41", "> 41", r"\approx 41", "42 = 43", "43 = 42", "42x", "x + 42", "x + 42 = 84", "42 - 1", "42, 42, 41", "421", "4 2",
              "4,2", "not 42", "42 or more", "between 41 and 43", "41 to 43", "42:1:1", "42_7", "42!", r"42\%42", "-42", "42i", "42 i",
              r"\neq 42", "x \\ne 42", r"\mathbb{R}", "any number", "the answer", "A", "?", "x", "?=42 or 41", "0.42", "42 42",
              "42.0001", "41.99999999", "42e1", "42 mod 5", "42 + x - y", r"42 \text{ or } 43", "[42, 42.1]", "42^2", "f(42)"]
    pairs = [(rf"\boxed{{{text}}}", "42") for text in code + towers + texts + hedges]
    pairs += [(text, "42") for text in ("42", "The answer is 42", "#### 42", "<answer>42</answer>", r"\boxed{42} \boxed{",
              r"<think>\boxed{42}</think>", r"\boxed{42} or \boxed{43}", r"\boxed{41} and \boxed{42}", r"\boxed{}", r"\boxed",
              r"boxed{42}", r"\boxed 42", r"\boxed{42", r"\boxed{42} but rather \boxed{41}", r"\boxed{\boxed{}}", "x" * 10**6)]
    pairs += [(rf"\boxed{{{text}}}", gold) for text, gold in (
        ("((((", "(((((("), (r"\foo", r"\bar"), ("@", "#"), ("^^", "^"), ("1/0", "2/0"), ("0/0", "1/0"), ("x^", "y^"),
        (r"\frac{", r"\frac{{"), ("", ""), (" ", ""), ("5", ""), ("", "5"), ("$", "$$"), ("{", "}"), ("()", "[]"),
        ("\\", "\\\\"), ("x=", "=x"), ("9^{9^9}", "9^{9^9}+1"), ("10^{9999}", "10^{9999}+1"), ("\ud800", "\ud801"), ("Evaluate: 42", "42"), ("What is 6*7?", "42"))]
    return pairs


ATTACKS = attacks()


def test_attacks_are_held_in_time():
    """A text that is rewarded, raises, or takes longer than a second (or leaves the grader broken)."""
    assert len(ATTACKS) >= 200
    slowest = (0.0, "")
    for response, gold in ATTACKS:
        start = time.perf_counter()
        got = [reward.score(response, gold), reward.score(gold and rf"\boxed{{{gold}}}", response[:3000]) * 0]
        slowest = max(slowest, (time.perf_counter() - start, response[:60]))
        assert got == [0.0, 0.0], (response[:100], gold)
        assert reward.score(response, gold, strict=True) in (0.0, 1.0)
    assert slowest[0] < 1.0, slowest
    assert reward.score(r"\boxed{42}", "42") == 1.0


def test_attacks_have_no_side_effect(tmp_path):
    """Text that reaches eval, exec, compile, open, a shell or a socket; memory that grows."""
    program = """
import resource, sys, reward
sys.path.insert(0, "tests")
from test_reward import ATTACKS
reward.score(r"\\\\boxed{\\\\sin 1}", "1")
bad, on = [], True
names = ("exec", "compile", "open", "os.system", "os.exec", "subprocess.Popen", "socket.connect", "os.remove", "import")
sys.addaudithook(lambda event, args: bad.append((event, str(args)[:200])) if on and event in names else None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for response, gold in ATTACKS:
    reward.score(response, gold, loose=True)
on = False
assert not bad, bad[:5]
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (ROOT / "PWNED").exists()


# ---- properties ----------------------------------------------------------------------------------

def spell(tree, rng):
    """A random spelling of an expression tree: LaTeX or plain, reordered, spaced."""
    kind = tree[0]
    if kind == "number":
        value = tree[1] * (1 if rng.random() < .8 else rng.choice((2, 3))) / 1
        scale = rng.choice((1, 1, 2, 3))
        top, bottom = tree[1].numerator * scale, tree[1].denominator * scale
        if bottom == scale == 1:
            return f"({top})" if top < 0 else str(top)
        return rng.choice((rf"\frac{{{top}}}{{{bottom}}}", f"({top}/{bottom})", rf"\dfrac{{{top}}}{{{bottom}}}"))
    if kind == "name":
        return rng.choice((tree[1], "{" + tree[1] + "}", tree[1] + " "))
    if kind == "root":
        return rng.choice((r"\sqrt{%s}", "(%s)^{1/2}", "sqrt(%s)")) % spell(tree[1], rng)
    if kind == "square":
        inner = spell(tree[1], rng)
        return rng.choice((f"({inner})^2", f"({inner})({inner})", f"({inner})^{{2}}", f"({inner})**2"))
    children = list(tree[1:])
    rng.shuffle(children)
    if kind == "add":
        return "(" + rng.choice((" + ", "+")).join(spell(child, rng) for child in children) + ")"
    if len(children) == 2 and children[1][0] == "add" and rng.random() < .5:     # expand a(b + c)
        first, inner = children[0], children[1][1:]
        return "(" + "+".join(f"({spell(first, rng)})({spell(child, rng)})" for child in inner) + ")"
    return "(" + rng.choice((r" \cdot ", "*", ")(")).join(spell(child, rng) for child in children) + ")"


numbers = st.fractions(-20, 20, max_denominator=12).filter(bool).map(lambda value: ("number", value))
trees = st.recursive(numbers | st.sampled_from("xyab").map(lambda name: ("name", name)), lambda inner: st.one_of(
    st.tuples(st.sampled_from(("add", "multiply")), inner, inner), st.tuples(st.just("square"), inner)), max_leaves=6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(trees, st.integers(0, 10**6))
def test_rewritten_expressions_are_equal(tree, seed):
    """A value-preserving rewrite that the grader takes for another answer."""
    rng = random.Random(seed)
    assert reward.equal(spell(tree, rng), spell(tree, rng))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(trees, st.integers(0, 10**6), st.fractions(-3, 3, max_denominator=50).filter(bool))
def test_changed_expressions_are_not_equal(tree, seed, change):
    """A changed value that the grader lets pass."""
    rng = random.Random(seed)
    assert not reward.equal(spell(("add", tree, ("number", change)), rng), spell(tree, rng))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.fractions(-10**4, 10**4, max_denominator=10**4))
def test_decimals_against_fractions(value):
    """A tolerance that is too wide or too narrow, or that reaches an integer."""
    decimal = f"{float(value):.9g}"
    if "e" not in decimal:
        assert reward.equal(decimal, str(value)) or value.denominator == 1 or float(decimal).is_integer()
    off = f"{float(value) * 1.00001:.12f}"
    assert not value or not reward.equal(off, str(value))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from(r"\{}()[]^_,.:;|&%$!=<>+-*/ 0123456789xyabei") | st.characters(), max_size=60), st.text(max_size=20))
def test_any_text_gets_a_verdict(predicted, gold):
    """An exception out of the grader."""
    assert reward.score(rf"\boxed{{{predicted}}}", gold) in (0.0, 1.0)
    assert reward.equal(predicted, gold) in (True, False)
    reward.verdict(predicted, gold, loose=True)
    reward.parses(gold)


# ---- speed, processes, threads -------------------------------------------------------------------

def test_speed():
    """A slow path on ordinary answers: 1,000 responses take at most 1 s in one process."""
    rows = list(itertools.chain(*CASES.values()))
    rows = (rows * 3)[:1000]
    reward.readings.cache_clear()
    start = time.perf_counter()
    for predicted, gold, _ in rows:
        reward.score(rf"\boxed{{{predicted}}}", gold)
    assert time.perf_counter() - start < 2.0                 # twice the aim: CI machines are shared


def test_import_is_quick_and_light():
    """An import of torch or sympy, or work at import time."""
    program = "import time; t = time.time(); import reward, sys; print(time.time() - t, 'sympy' in sys.modules, 'torch' in sys.modules)"
    seconds, sympy, torch = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert float(seconds) < 1.0 and (sympy, torch) == ("False", "False")


def test_threads_and_processes_agree():
    """State shared between threads (the precision of mpmath), or signals that work in the main thread only."""
    rows = list(itertools.chain(*CASES.values()))
    responses, golds = [rf"\boxed{{{row[0]}}}" for row in rows], [row[1] for row in rows]
    expected = [reward.score(*pair) for pair in zip(responses, golds)]
    reward.readings.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reward.score, responses, golds)) == expected
    assert reward.score_batch(responses, golds) == expected
    assert reward.score_batch(responses, golds, workers=0) == expected


def workers_of_this_process():
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    found = []
    for pid in pids:
        try:
            status, command = Path(f"/proc/{pid}/status").read_text(), Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if f"PPid:\t{os.getpid()}\n" in status and "--worker" in command:
            found.append(pid)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the workers in /proc")
@pytest.mark.parametrize("sent, reason", [(signal.SIGKILL, "crashed"), (signal.SIGSTOP, "timed out")])
def test_a_lost_worker_costs_one_answer(sent, reason):
    """A killed or hanging worker that raises, blocks, or takes other answers with it."""
    count = 4000
    counts, result = collections.Counter(), []
    thread = threading.Thread(target=lambda: result.append(reward.score_batch(
        [r"\boxed{\sqrt{8}}"] * count, [r"2\sqrt{2}"] * count, counts, workers=1, seconds=1.0)))
    thread.start()
    while not workers_of_this_process():
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(workers_of_this_process()[0], sent)
    thread.join(60)
    assert sum(result[0]) == count - 1 and counts == {"right": count - 1, reason: 1}


def test_counts_and_lengths():
    """Reasons that are lost or mixed up; lists of different lengths that are cut silently."""
    counts = {}
    responses = [r"\boxed{1}", r"\boxed{2}", r"\boxed{((}", r"\boxed{1", r"\boxed{}", "1"]
    assert reward.score_batch(responses, ["1"] * 6, counts) == [1.0, 0, 0, 0, 0, 0]
    assert counts == {key: 1 for key in ("right", "wrong", "unparsable", "truncated", "empty box", "no answer")}
    with pytest.raises(ValueError, match="2 responses but 1"):
        reward.score_batch(["1", "2"], ["1"])


def test_parses():
    """A gold that nothing but its own text can match, and that no one hears of."""
    assert all(map(reward.parses, ("42", r"\frac12", r"\text{east}", "(1,2)", "B", r"\begin{pmatrix}1\2\end{pmatrix}")))
    assert not any(map(reward.parses, ("", "((", r"\frac{1}", r"\foo")))


@pytest.mark.parametrize("predicted, gold, right", [
    (r"\frac12", r"\frac{1}{2}", True), ("1/2", r"\frac{1}{2}", True), ("0.5", r"\frac{1}{2}", True), ("1,000", "1000", False),
    ("0.25", "1/4", False), ("3+2x", "2x+3", False), (r"\sqrt2", r"\sqrt{2}", True), ("x=5", "5", True), (r"\tfrac34", r"\frac34", True),
    (r"10\%", "10", True), (r"5\text{ cm}", "5", True), (r"30^\circ", "30", True), (".5", "0.5", True), ("long=5", "5", False),
    (r"\left( 1, 2 \right)", "(1,2)", True), (r"\$5", "5", True), ("A", "B", False)])
def test_strict(predicted, gold, right):
    """Strict mode that is more generous, or less, than the string rules it is to reproduce."""
    assert reward.equal(predicted, gold, strict=True) == right
    assert reward.score(rf"\boxed{{{predicted}}}", gold, strict=True) == right


def test_command_line():
    """An explanation that leaves out the extraction, a reading, or the verdict; a demo that fails."""
    run = lambda *args: subprocess.run([sys.executable, "reward.py", *args], cwd=ROOT, capture_output=True, text=True)
    shown = run(r"so \boxed{0.5}", "1/2").stdout
    assert "'0.5'" in shown and "ground truth" in shown and "right (same value)" in shown
    assert "not right (truncated)" in run(r"\boxed{5", "5").stdout
    demo = run()
    assert demo.returncode == 0 and "FAIL" not in demo.stdout


# ---- golds ---------------------------------------------------------------------------------------

DATA = os.environ.get("DSRL_DATA")
MADE_UP = ["7", "-3", r"\frac{3}{8}", r"2\sqrt{5}", "(3,-4)", r"[0,\infty)", r"\text{Tuesday}", r"{(C)}", "x^2+1", "120^\\circ", "1,250",
           r"3\pm\sqrt{7}", r"\begin{pmatrix}2\-1\end{pmatrix}", "y=4x-1", "5:3", "1011_2", r"40\%", "6\\text{ cm}", "2.50", r"\{1,4\}"]


def last_box(text):
    start = text.rindex(r"\boxed{") + len(r"\boxed{")
    depth, end = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[start:end - 1]


def real_golds():
    """All golds of the data folder; parquet needs pyarrow."""
    import pyarrow.parquet as parquet
    golds = set()
    for path in Path(DATA).glob("*.parquet"):
        for row in parquet.read_table(path, columns=["reward_model"]).to_pylist():
            gold = row["reward_model"]["ground_truth"]
            golds.add(str(gold["target"] if isinstance(gold, dict) else gold))
    for name in ("aime24", "amc23", "olympiadbench", "minerva", "gsm8k_test", "gsm8k_train"):
        for line in open(Path(DATA) / f"{name}.jsonl", encoding="utf-8"):
            row = json.loads(line)
            golds |= ({last_box(row["solution"])} if name == "minerva" else set(map(str, row["final_answer"]))
                      if "final_answer" in row else {str(row["answer"]).split("####")[-1].strip()})
    return sorted(golds)


def check_golds(golds):
    """Each gold is right in its own box; a constant answer is right for none that is not it."""
    return ([gold for gold in golds if reward.score(rf"\boxed{{{gold}}}", gold) != 1.0],
            [gold for gold in golds if reward.score(r"\boxed{-987654}", gold)])


def test_golds_grade_themselves():
    """A normalisation that breaks an answer, or makes everything equal."""
    assert check_golds(MADE_UP) == ([], [])


@pytest.mark.skipif(not DATA, reason="DSRL_DATA names no folder with the real data files")
def test_real_golds_grade_themselves():
    """The same on the golds of GSM8K, MATH, AIME, AMC, OlympiadBench and Minerva."""
    failed, constant = check_golds(real_golds())
    assert set(failed) <= {"", "90{square"} and not constant        # an empty gold and one cut off


@pytest.mark.skipif(not DATA, reason="DSRL_DATA names no folder with the labelled pairs")
def test_labelled_pairs():
    """A rule that other graders' authors agree on and ours lacks; "the last number" is not one of them."""
    wrong = []
    for line in open(Path(DATA) / "reward_cases.jsonl", encoding="utf-8"):
        row = json.loads(line)
        got = reward.equal(row["pred"], row["gold"]) if row["raw"] else \
            reward.score(row["pred"], row["gold"], loose=True) == 1.0
        if got != row["expected"] and (got or row["kind"] != "extract_loose"):
            wrong.append(row)
    assert not wrong
