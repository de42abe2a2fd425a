"""The grader: right answers recognised, wrong ones never, nothing executed, nothing hangs.

The reference is the table below, written by hand from README's "what a right answer is", and rewriting
of generated expressions whose value is known.  Real golds and labelled pairs are used where DSRL_DATA
names the folder that holds them.

    python -m pytest tests/test_reward.py -q
"""
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
        ('12.', '12.0', True), ('0.1+0.2', '0.3', True), ('1.0', '1', True),
        ('-1.50', '-3/2', True), ('$42$', '42', True), ('42\\text{}', '42', True),
        ('\\text{42}', '42', True), ('\\mathbf{42}', '42', True), ('{42}', '42', True),
        ('(42)', '42', True), ('42 .', '42', True), ('3,000.50', '3000.5', True),
        ('10,00,000', '1000000', False), ('4,56', '456', False), ('1.23e-4', '0.000123', True),
        ('\\#42', '42', False), ('no. 42', '42', False), ('42th', '42', False),
        ('forty-two', '42', False), ('two', '2', False), ('1\\,234\\,567', '1234567', True),
        ('12{,}345', '12345', True), ('12,345', '12,345', True), ('12345', '12,345', True),
        ('2.0000001', '2.0', False), ('1.97', '1.97423402868049', False),
        ('0.333', '0.3333', False), ('33.33\\%', '1/3', False), ('1e3', '1000.0', True),
        ('100.', '100', True), ('-0.5', '0.5', False), ('0', '-0', True),
        ('\\frac{22}{7}', '3.142857', True), ('\\frac{22}{7}', '\\pi', False),
        ('355/113', '3.14159292', True), ('2.71828', 'e', True), ('2.718', 'e', False),
        ('1.732050808', '\\sqrt{3}', True), ('0.7071', '\\frac{\\sqrt2}{2}', False),
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
        ('\\frac{3}{4}x', '0.75x', True), ('\\frac{-3}{-4}', '3/4', True), ('3 / 4', '3/4', True),
        ('\\frac{3}{4}\\pi', '3\\pi/4', True), ('\\frac{1}{2}\\cdot\\frac{3}{4}', '3/8', True),
        ('\\frac34\\%', '0.75', True), ('\\frac{4}{6} = \\frac{2}{3}', '2/3', True),
        ('\\frac{4}{6} = \\frac{2}{4}', '2/3', False), ('4/6 or 2/3', '2/3', False),
        ('\\frac{1,000}{3}', '1000/3', True), ('\\frac{7}{2}', '3\\frac12', True),
        ('2 \\frac{1}{3}', '7/3', True), ('2\\frac13 \\text{ cups}', '7/3', True),
        ('-1 1/2', '-3/2', True), ('\\frac{\\pi}{4}', '\\frac\\pi4', True),
        ('\\frac{a}{b}', 'a/b', True), ('\\frac{1}{2}', '1/3', False),
        ('\\left.\\frac{1}{2}\\right.', '1/2', True), ('^1/_2', '1/2', False),
        ('\\nicefrac{1}{2}', '1/2', True), ('\\sfrac{1}{2}', '1/2', True),
        ('\\displaystyle\\frac{1}{2}', '1/2', True),
    ],
    "percent": [
        ('50\\%', '50', True), ('50%', '1/2', True), ('0.5', '50%', True), ('50', '50%', True),
        ('5', '50%', False), ('50', '0.5', False), ('0.5%', '50', False),
        ('50 percent', '50%', True), ('12.5\\%', '1/8', True), ('5000%', '50%', False),
        ('33.3333%', '1/3', True), ('25\\text{ percent}', '25\\%', True),
        ('25\\,\\%', '25\\%', True), ('50\\ \\%', '50\\%', True), ('0.50', '50\\%', True),
        ('50 \\%', '\\frac{1}{2}', True), ('\\frac{1}{4}', '25\\%', True), ('x=25\\%', '25', True),
        ('25%', '0.25%', False), ('-5\\%', '-5', True), ('12.5%', '12.5', True),
        ('2.5', '25%', False),
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
        ('500 \\text{ mL}', '500', True), ('5\\ \\text{cm}', '5', True),
        ('5\\;\\mathrm{cm}^2', '5', True), ('\\text{5 cm}', '5', True),
        ('5\\text{ cm}', '5\\text{ m}', True), ('5cm', '5', True), ('5 cm^3', '5', True),
        ('5 in', '5', True), ('5 in.', '5', True), ('5 ft^2', '5', True),
        ('\\$1,234.50', '1234.5', True), ('1234.5 dollars', '\\$1,234.50', True), ('$5', '5', True),
        ('5\\$', '5', True), ('£5', '5', True), ('5 USD', '5', True), ('72^{\\circ}F', '72', True),
        ('20\\pi \\text{ square units}', '20\\pi', True), ('20\\pi cm^2', '20\\pi', True),
        ('\\frac{3}{4} \\text{ hours}', '3/4', True), ('3 hours and 20 minutes', '3', False),
        ('10:30 \\text{ a.m.}', '10:30', True), ('5 \\times 10^{-7} \\mathrm{m}', '5e-7', True),
        ('5 \\mu m', '5', False), ('18 years old', '18', True), ('12 people', '12', True),
        ('1 day', '1', True), ('60 mph', '60', True),
        ('3.2 \\times 10^{5} \\text{ J}', '320000', True), ('9 units^2', '9', True),
        ('25 cents', '25', True), ('7 square feet', '7', True), ('1 million', '1', False),
        ('2 dozen', '2', False), ('5 hundred', '500', True),
        ('$12\\frac{1}{2}$ inches', '12.5', True), ('12\\text{ or }13\\text{ cm}', '12,13', True),
        ('5\\text{ (units)}', '5', True), ('\\approx 5', '5', True), ('5^\\circ', '5', True),
        ('\\ang{30}', '30', False), ('4\\text{ min }30\\text{ s}', '4', False),
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
        ('0101_2', '101_2', True), ('4210_{5}', '4210_5', True), ('1101_2', '1101_{2}', True),
        ('1101_{(2)}', '1101_2', True), ('(1101)_2', '1101_2', True), ('1101_b', '1101_2', False),
        ('1101_{\\text{base }2}', '1101_2', True), ('1,101_2', '1101_2', True),
        ('13', '1101_2', False), ('D_{16}', 'D_{16}', True), ('3F_{16}', '3F_{16}', True),
        ('1011_2', '1101_2', False), ('1101 base 2', '1101_2', True),
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
        ('\\sqrt{2}\\cdot\\sqrt{3}', '\\sqrt6', True), ('3\\sqrt{3}-2', '-2+3\\sqrt{3}', True),
        ('\\sqrt{\\frac{1}{2}}', '\\frac{\\sqrt2}{2}', True),
        ('2\\sqrt3/3', '\\frac{2}{\\sqrt3}', True), ('\\sqrt{12}', '3\\sqrt2', False),
        ('\\sqrt[4]{16}', '2', True), ('16^{1/4}', '2', True), ('\\log_3 27', '3', True),
        ('\\log_{2}{8}', '3', True), ('\\log_2(8)', '3', True),
        ('\\frac{\\log 8}{\\log 2}', '3', True), ('\\ln(e)', '1', True), ('e^{\\ln 3}', '3', True),
        ('\\log_{4}{8}', '1.5', True), ('2^{1.5}', '2\\sqrt2', True), ('\\cos(\\pi)', '-1', True),
        ('\\cos 60^{\\circ}', '1/2', True), ('\\sin(\\pi/6)', '0.5', True),
        ('\\tan\\frac{\\pi}{4}', '1', True), ('\\cot 45^\\circ', '1', True),
        ('\\csc 30^\\circ', '2', True), ('\\sin^{-1}\\frac12', '\\frac\\pi6', True),
        ('arcsin(1/2)', '\\pi/6', True), ('\\operatorname{arctan}(1)', '\\pi/4', True),
        ('\\sin 15^\\circ\\cos 15^\\circ', '1/4', True), ('2+3i', '3i+2', True),
        ('2+3i', '2-3i', False), ('|3+4i|', '5', True), ('e^{i\\pi/2}', 'i', True),
        ('\\frac{2}{1-i}', '1+i', True), ('1/i', '-i', True),
        ('\\operatorname{cis} 60^\\circ', '\\frac12', False),
        ('\\sum_{k=1}^{3}k', '\\sum_{k=1}^{3}k', True), ('C(5,2)', '10', False),
        ('{5 \\choose 2}', '10', True), ('5 \\mod 3', '2', False), ('10^{-3}', '0.001', True),
        ('2 \\cdot 10^{3}', '2000', True), ('3!+2!', '8', True), ('\\frac{8!}{3!}', '6720', True),
        ('6!!', '48', False), ('\\lfloor -1.5 \\rfloor', '-2', True),
        ('\\sqrt{1+\\sqrt{2}}', '\\sqrt{\\sqrt2+1}', True), ('4^{\\frac{3}{2}}', '8', True),
        ('(\\sqrt2)^2', '2', True), ('\\sqrt{(-3)^2}', '3', True), ('-3^2', '-9', True),
        ('-3^2', '9', False), ('(-3)^2', '9', True), ('2^{3^2}', '512', True),
        ('(2^3)^2', '64', True), ('\\frac{1}{2^{99}}', '2^{-99}', True),
        ('3\\pi\\text{ cm}', '3\\pi', True), ('\\pi^2', '\\pi', False),
        ('\\max\\{1,2\\}', '2', True), ('\\text{lcm}(4,6)', '12', True),
        ('\\overline{0.3}', '1/3', False), ('0.\\overline{3}', '1/3', True),
        ('0.\\overline{3}', '0.3', False), ('0.1\\overline{6}', '1/6', True),
        ('1.\\overline{27}', '14/11', True), ('\\dfrac{\\ln 2}{2}', '\\ln\\sqrt2', True),
        ('\\ln(1/2)', '-\\ln 2', True), ('4\\sqrt{2}', '4', False),
        ('\\phi', '\\frac{1+\\sqrt5}{2}', False), ('\\sqrt{3}i', 'i\\sqrt3', True),
        ('2e^{i\\pi/3}', '1+i\\sqrt{3}', True),
        ('\\cos\\frac{2\\pi}{7}', '\\cos\\frac{4\\pi}{7}', False),
        ('\\sqrt[3]{2}', '2^{1/3}', True), ('1 - 2^{-10}', '\\frac{1023}{1024}', True),
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
        ('(x-2)(x+3)', 'x^2+x-6', True), ('x(x+1)', 'x^2+x', True), ('f(x+1)', 'f(x)+f(1)', False),
        ('2(x+y)', '2x+2y', True), ('x^{-1}', '\\frac1x', True),
        ('\\frac{x+1}{2}', '\\frac{x}{2}+\\frac12', True), ('\\frac{x+1}{2}', 'x+\\frac12', False),
        ('e^x', '\\exp(x)', True), ('\\sqrt[3]{x}', 'x^{1/3}', True),
        ('a^2+2ab+b^2', '(a+b)^2', True), ('a^2-b^2', '(a-b)^2', False),
        ('\\cos^2\\theta', '1-\\sin^2\\theta', True), ('\\cos 2x', '1-2\\sin^2x', True),
        ('\\sin(a+b)', '\\sin a\\cos b+\\cos a\\sin b', True), ('\\log x', '\\ln x', True),
        ('\\frac{\\ln x}{\\ln 2}', '\\log_2 x', True), ('2n-1', '2k-1', False),
        ('n^2', 'n^{2}', True), ('2^n-1', '2^{n}-1', True), ('2^{n-1}', '2^n-1', False),
        ('\\frac{n!}{k!(n-k)!}', '\\binom nk', True), ('{n \\choose k}', '\\binom{n}{k}', True),
        ('x_1 x_2', 'x_{2}x_{1}', True), ('a_{n+1}', 'a_{n}+1', False),
        ('\\lambda', '\\lambda', True), ('mv^2/2', '\\frac12 m v^2', True), ('mgh', 'm g h', True),
        ('\\frac{1}{2}mv^2', 'mv^2', False), ('\\sqrt{x+1}', '\\sqrt x+1', False),
        ('|x-1|', '|1-x|', True), ('x^4-1', '(x^2-1)(x^2+1)', True),
        ('(x^2-1)^{1/2}', '\\sqrt{x^2-1}', True), ('\\sec^2 x-\\tan^2 x', '1', True),
        ('e^{2\\ln x}', 'x^2', True), ('\\arctan x', '\\tan^{-1}x', True),
        ('\\sinh x', '\\frac{e^x-e^{-x}}{2}', True), ('x^2+x+C', 'x^2+x', False),
        ('5x+3y', '3y+5x', True), ('5xy', '5yx', True), ('x\\cdot y', 'xy', True),
        ('x \\times y', 'xy', True), ('x\\left(x+1\\right)', 'x^2+x', True),
        ('\\dfrac{x^2}{2}', 'x^2/2', True), ('-x+1', '1-x', True),
        ('\\frac{-x}{y}', '-\\frac{x}{y}', True), ('x^2y^3', 'y^3x^2', True), ('3x', '3', False),
        ('3a', '3b', False), ('k+1', 'k', False), ('ax^2+bx+c', 'c+bx+ax^2', True),
        ('\\sqrt{x}\\sqrt{x}', 'x', True), ('1/(1+x^2)', '\\frac{1}{x^2+1}', True),
        ('x^{10}', 'x^10', True), ('\\Delta x', '\\Delta x', True), ('x e^{-x}', 'xe^{-x}', True),
        ('\\frac{d}{dx}', '\\frac{dy}{dx}', False),
        ('\\frac{\\sqrt{s(s-a)(s-b)(s-c)}}{s}', '\\frac{\\sqrt{(s-a)s(s-b)(s-c)}}{s}', True),
        ('\\tfrac{1}{2}ab\\sin C', '\\frac{ab \\sin C}{2}', True),
        ('ab\\cos\\gamma', 'ab\\cos\\alpha', False),
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
        ('5 = 5 = 6', '5', False), ('k=1,2', '1,2', True), ('x=3', 'x = 3.0', True),
        ('x=-3', '-3', True), ('x = \\frac{1}{2}', '0.5', True), ('x=y', 'y=x', True),
        ('2y=4x+6', 'y=2x+3', True), ('y=2x+3', 'y=2x-3', False), ('y = 2x+3', 'f(x)=2x+3', False),
        ('y-1=2(x+1)', 'y=2x+3', True), ('3x-2y=6', 'y=\\frac32x-3', True),
        ('3x - 2y = 6', '6x-4y=12', True), ('x^2+y^2-4=0', 'x^2+y^2=4', True),
        ('(x-1)^2+(y+2)^2=9', 'x^2-2x+y^2+4y-4=0', True), ('xy=1', 'y=\\frac1x', False),
        ('a=b=c', 'a=b=c', True), ('E=mc^2', 'mc^2', True), ('E=mc^2', 'E=m c^{2}', True),
        ('V = \\frac{4}{3}\\pi r^3', '\\frac43\\pi r^3', True), ('\\theta=30^\\circ', '30', True),
        ('\\angle A=60^\\circ', '60^\\circ', True), ('P=0.25', '1/4', True),
        ('\\text{Area} = 10', '10', True), ('n = 7', '7', True), ('x=1, y=2', 'y=2, x=1', True),
        ('x=1,y=2', '(1,2)', True), ('x=1,y=2', '(2,1)', False),
        ('x=1 \\text{ and } y=2', 'x=1,y=2', True), ('x = 1, x = 2', '1,2', True),
        ('x=1;x=2', 'x=2,x=1', True), ('x = 1 or 2', '1 or 2', True), ('x=5', 'x=-5', False),
        ('y=-5', 'x=-5', False), ('f(x)=x', 'f(x)=2x', False), ('g(x)=x^2', 'x^2', True),
        ('f(x,y)=x+y', 'x+y', True), ('A=(1,2)', '(1,2)', True), ('x=a', 'x=b', False),
        ('0=0', '0', True), ('x=x', 'x', False), ('1=2', '1', False), ('5=', '5', False),
        ('x:=5', '5', True), ('x==5', '5', True), ('a+b=5', '5', False), ('2x=4', 'x=2', True),
        ('x-2=0', 'x=2', True), ('x^2=4', 'x=2', False), ('k = 3n', '3n', True),
        ('\\cos\\theta = \\frac12', '\\frac12', True), ('f(3) = 7', '7', True),
        ('a_5=11', '11', True), ('|AB| = 5', '5', True), ('AB^2=25', '5', False),
        ('\\frac{AB}{CD}=\\frac12', '1/2', True), ('x+y=7', '7', False),
        ('r = 2\\cos\\theta', '2\\cos\\theta', True),
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
        ('x\\leq 2', 'x\\le2', True), ('x≥2', '[2,\\infty)', True), ('x > 2', '(2,\\infty)', True),
        ('x>2', '[2,\\infty)', False), ('2<x\\leq 5', '(2,5]', True), ('5\\geq x>2', '(2,5]', True),
        ('x<-2 \\text{ or } x>2', '(-\\infty,-2)\\cup(2,\\infty)', True), ('|x|<2', '|x|<2', True),
        ('x\\in(1,2)\\cup(3,4)', '(1,2)\\cup(3,4)', True),
        ('(-\\infty, -2) \\cup (2, +\\infty)', '(-\\infty,-2)\\cup(2,\\infty)', True),
        ('\\{x|x<3\\}', '(-\\infty,3)', True), ('\\{x \\mid 1<x<2\\}', '1<x<2', True),
        ('a<b', 'b>a', True), ('a<b', 'a>b', False), ('x\\neq 0', 'x \\ne 0', True),
        ('x\\neq0', '\\mathbb{R}\\setminus\\{0\\}', True),
        ('x \\in \\mathbb{R}', '(-\\infty,\\infty)', True), ('\\mathbb{R}', '\\mathbb R', True),
        ('all real numbers', '\\mathbb{R}', False),
        ('x \\in \\mathbb{Z}', 'x\\in\\mathbb{R}', False), ('[1,3]', '[1,3)', False),
        ('(1,3)', '(3,1)', False), ('[ -1 , 1 ]', '[-1,1]', True),
        ('\\left(-\\infty,\\frac12\\right]', '(-\\infty,0.5]', True),
        ('\\left[-\\frac{\\pi}{2},\\frac{\\pi}{2}\\right]', '[-\\pi/2,\\pi/2]', True),
        ('x<3', 'x<4', False), ('3<x', 'x>3', True), ('0<x<1', '(0,1]', False),
        ('n\\ge 3', 'n \\geq 3', True), ('k>1', 'k>1, k<5', False),
        ('(1,2)\\cup(2,3)', '(1,3)', False), ('(1,2]\\cup(2,3)', '(1,3)', True),
        ('\\{1\\}\\cup\\{2\\}', '\\{1,2\\}', True),
        ('\\{0\\}\\cup[1,2]', '[1,2]\\cup\\{0\\}', True), ('-1\\le x\\le 1', '|x|\\le 1', False),
        ('x > 1 \\text{ and } x < 3', '(1,3)', True),
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
        ('(a,b,c)=(1,2,3)', '(1,2,3)', True), ('(3, \\frac{\\pi}{2})', '(3,\\frac\\pi2)', True),
        ('( -1 , 2 )', '(-1,2)', True), ('(1,2,3)', '(1,2,4)', False),
        ('(1,2),(2,1)', '(2,1),(1,2)', True), ('(1,2) and (3,4)', '(1,2),(3,4)', True),
        ('\\{(1,2),(3,4)\\}', '(3,4),(1,2)', True), ('(1,2)', '(1,2),(3,4)', False),
        ('x=(1,2)', '(1,2)', True), ('(0.5,0.25)', '(1/2,1/4)', True),
        ('(\\sqrt4, 3)', '(2,3)', True), ('(1,-2)', '(1,2)', False),
        ('\\left( 1, 2 \\right)', '(1,2)', True), ('(1;2)', '(1,2)', True),
        ('[1,2,3]', '(1,2,3)', True), ('(a,b)', '(a,b)', True),
        ('(1000, 2000)', '(1,000, 2,000)', False), ('P(1,2)', '(1,2)', False),
        ('\\langle 1, 2, 3\\rangle', '(1,2,3)', True), ('(2, 3)', '2, 3', False),
        ('(x,y,z)=(1,2,3)', '(1,2,3)', True), ('(1,2)^T', '(1,2)', False),
        ('(5,\\infty)', '(5,\\infty)', True),
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
        ('1,2', '2,1', True), ('\\{1,2,2\\}', '\\{1,2\\}', False),
        ('\\frac12,-\\frac12', '\\pm\\frac12', True), ('3 and -3', '\\pm3', True),
        ('-1, 0, 1', '0,\\pm 1', True), ('\\sqrt2, -\\sqrt2', '\\pm\\sqrt{2}', True),
        ('1 \\text{ and } 3', '1,3', True), ('1, 3 and 5', '1,3,5', True), ('1,3,5', '1,3', False),
        ('1,3', '1,3,5', False), ('\\{\\}', '\\emptyset', True), ('\\{0\\}', '\\emptyset', False),
        ('\\{1\\}', '1', True), ('\\{5\\}', '5', True), ('i, -i', '\\pm i', True),
        ('2\\pm i', '2+i,2-i', True),
        ('\\frac{-1\\pm\\sqrt{5}}{2}', '\\frac{\\sqrt5-1}{2},\\frac{-\\sqrt5-1}{2}', True),
        ('1\\pm\\sqrt2', '1+\\sqrt2', False),
        ('\\pm\\sqrt{2\\pm\\sqrt2}',
        '\\sqrt{2+\\sqrt2},-\\sqrt{2+\\sqrt2},\\sqrt{2-\\sqrt2},-\\sqrt{2-\\sqrt2}', True),
        ('a,b,c', 'c,a,b', True), ('red, blue', 'blue, red', True), ('x, y', 'y', False),
        ('2, 3, 5, 7', '2,3,5,7', True), ('1 2 3', '1,2,3', False),
        ('\\{a, b\\}', '\\{b, a\\}', True), ('0, \\pi', '0,\\pi', True),
        ('0,\\frac{\\pi}{2},\\pi', '\\pi,0,\\pi/2', True), ('1,-1', '1', False),
        ('AB, CD', 'CD, AB', True), ('1, 2, \\ldots, 10', '1,2,\\ldots,10', True),
    ],
    "matrix": [
       
        ('\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}',
        '\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}', True),
        ('\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', '\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}',
        False),
        ('\\begin{pmatrix} -6 \\\\ 9 \\end{pmatrix}', '\\begin{pmatrix}-6\\9\\end{pmatrix}', True),
        ('\\begin{pmatrix} 0&0 \\\\ 0&0 \\end{pmatrix}', '\\begin{pmatrix}0&0\\0&0\\end{pmatrix}',
        True),
        ('\\frac12\\begin{pmatrix}2\\\\4\\end{pmatrix}', '\\begin{pmatrix}1\\\\2\\end{pmatrix}',
        True),
        ('\\begin{pmatrix}1\\\\2\\end{pmatrix}', '\\begin{pmatrix}1&2\\end{pmatrix}', False),
        ('[[1,2],[3,4]]', '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', True),
        ('\\begin{pmatrix}1\\\\2\\end{pmatrix}', '(1,2)', True),
        ('\\begin{pmatrix}1&2\\\\3&4\\\\\\end{pmatrix}',
        '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', True),
        ('\\begin{bmatrix}x+1\\\\2\\end{bmatrix}', '\\begin{pmatrix}1+x\\\\2\\end{pmatrix}', True),
        ('\\begin{array}{cc}1&2\\\\3&4\\end{array}', '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}',
        True),
        ('\\begin{pmatrix} -1/2 \\\\ 5/2 \\\\ 1 \\end{pmatrix}',
        '\\begin{pmatrix}-1/2\\5/2\\1\\end{pmatrix}', True),
        ('A=\\begin{pmatrix}1\\\\2\\end{pmatrix}', '\\begin{pmatrix}1\\\\2\\end{pmatrix}', True),
        ('\\begin{pmatrix} \\frac{3}{5} & \\frac15 \\\\ 0 & 1 \\end{pmatrix}',
        '\\begin{pmatrix}3/5&1/5\\0&1\\end{pmatrix}', True),
        ('-\\begin{pmatrix}1\\\\2\\end{pmatrix}', '\\begin{pmatrix}-1\\\\-2\\end{pmatrix}', True),
        ('\\begin{bmatrix}1 & 0\\\\ 0 & 1\\end{bmatrix}',
        '\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}', True),
        ('\\begin{pmatrix}1\\\\2\\\\3\\end{pmatrix}', '\\begin{pmatrix}1\\\\2\\\\4\\end{pmatrix}',
        False),
        ('\\begin{pmatrix}1&2\\end{pmatrix}', '(1,2)', True),
        ('\\left(\\begin{array}{c}1\\\\2\\end{array}\\right)',
        '\\begin{pmatrix}1\\\\2\\end{pmatrix}', True),
        ('\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}', '-2', False),
        ('2\\begin{pmatrix}1\\\\2\\end{pmatrix}', '\\begin{pmatrix}2\\\\4\\end{pmatrix}', True),
        ('\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', '\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}',
        False),
        ('\\begin{pmatrix}1&2\\\\3\\end{pmatrix}', '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}',
        False),
        ('\\begin{pmatrix} \\cos\\theta & -\\sin\\theta \\\\ \\sin\\theta & \\cos\\theta \\end{pmatrix}', '\\begin{bmatrix}\\cos\\theta&-\\sin\\theta\\\\\\sin\\theta&\\cos\\theta\\end{bmatrix}', True),
        ('[1,2;3,4]', '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}', False),
    ],
    "ratio": [
        ('3:4', '3:4', True), ('6:8', '3:4', True), ('3:4', '4:3', False), ('1:2:3', '2:4:6', True),
        ('1:2:3', '1:3:2', False), ('3/4', '3:4', True), ('\\frac34', '3:4', True),
        ('3 : 4', '3:4', True), ('3\\text{ to }4', '3:4', True),
        ('\\sqrt{2}:1', '2:\\sqrt{2}', True), ('a:b=3:4', '3:4', True), ('1:2', '2:4', True),
        ('1:2', '1/2', True), ('2:1', '1:2', False), ('1 : 2 : 3', '1:2:3', True),
        ('1 to 2', '1:2', True), ('\\frac{1}{2}', '1:2', True), ('0.5', '1:2', True),
        ('5:3', '5/3', True), ('x:y=1:2', '1:2', True), ('1\\colon 2', '1:2', True),
        ('3:2:1', '1:2:3', False),
    ],
    "choice": [
        ('(B)', 'B', True), ('\\text{(B)}', 'B', True), ('\\textbf{(B)}', 'B', True),
        ('B) 12', 'B', True), ('b', 'B', True), ('A', 'B', False), ('A, B', 'A', False),
        ('(A) 5', 'A', True), ('\\textbf{(A)}\\ 5', 'A', True), ('B.', 'B', True),
        ('option C', 'C', True), ('\\mathbf{D}', 'D', True), ('AB', 'A', False),
        ('A or B', 'A', False), ('(C)', '{(C)}', True), ('ABC', 'ABC', True), ('5', 'A', False),
        ('Apple', 'A', False), ('A.', '(A) Alina', True), ('(B) Bob', '(A) Bob', False),
        ('Choice (E)', 'E', True), ('(A)', 'A', True), ('A.', 'A', True), ('\\text{A}', 'A', True),
        ('\\mathrm{(A)}', 'A', True), ('\\textbf{(A) }5', 'A', True), ('a)', 'A', True),
        ('A: 5', 'A', True), ('B and C', 'B', False), ('(A)(B)', 'A', False), ('F', 'E', False),
        ('E', 'e', True), ('D', '(D)', True), ('The answer is (D)', 'D', False), ('I', 'J', False),
        ('BC', 'CB', True), ('B,C', 'B, C', True), ('C,B', 'B,C', True),
        ('(B) and (C)', 'B,C', True), ('\\text{B and C}', 'B,C', False), ('\\boxed{C}', 'C', True),
        ('C', '3', False), ('None', 'N', False),
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
        ('Tuesday', 'Thursday', False), ('\\text{True}', 'True', True), ('TRUE', 'true', True),
        ('false', 'true', False), ('Yes.', 'yes', True), ('\\textbf{no}', 'no', True),
        ('No, it is not', 'no', False), ('circle', '\\text{circle}', True),
        ('a circle', 'circle', False), ('hyperbola', '\\text{ellipse}', False),
        ('\\text{Neither}', 'neither', True), ('Saturday', 'saturday', True), ('red', 'red', True),
        ('cat', 'act', False), ('tea', 'eat', False), ('\\mathrm{even}', 'even', True),
        ('isosceles triangle', 'triangle', False), ('\\text{increasing}', 'decreasing', False),
        ('x-axis', 'x-axis', True), ('y-axis', 'x-axis', False),
        ('no real solutions', '\\text{no real solutions}', True), ('5 apples', 'apples', False),
        ('Alice and Bob', 'Bob and Alice', True), ('\\text{Alice}', 'Bob', False),
        ('impossible', 'possible', False), ('valid', 'invalid', False),
        ('not valid', 'valid', False), ('May', 'may', True), ('A', 'a', True),
        ('cosine', 'cos', False), ('pi', '\\pi', True), ('\\text{DNE}', 'DNE', True),
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
    one_way = {("10 m/s", "10"), ("100^\\circ C", "100"), ("5 L", "5"), ("5 m", "5"),
               ("72^{\\circ}F", "72")}  # unit letters
    for predicted, gold, right in itertools.chain(*CASES.values()):
        if predicted:
            assert reward.score(f"So we get $\\boxed{{{predicted}}}$.", gold) == right, (predicted,
                gold)
        if (predicted, gold) not in one_way:
            assert reward.equal(gold, predicted) == right, (predicted, gold)


EXTRACTIONS = [  # response, strict extraction, loose extraction
    (r"\boxed{7}", "7", "7"), (r"\boxed {7}", "7", "7"), (r"\fbox{7}", "7", "7"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1}{2}"), (r"\boxed{1} then \boxed{2}", "2",
    "2"),
    (r"\boxed{1} and \boxed{2}", "1, 2", "1, 2"), (r"\boxed{1}, \boxed{2} or \boxed{3}", "1, 2, 3",
    "1, 2, 3"),
    (r"$\boxed{1}$ \quad \text{and} \quad $\boxed{2}$", "1, 2", "1, 2"), (r"\boxed{5} \boxed{5}",
    "5", "5"),
    (r"\boxed{7} or so. Then \boxed{", None, None), (r"\boxed{7}. Final: \boxed{}", None, None),
    (r"\boxed{\frac{1}{2}", None, None), (r"\boxed{3}</think> so it is 4", None, None),
    (r"<think>\boxed{3}</think>\boxed{4}", "4", "4"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}",
    r"\{1, 2\}"),
    (r"\boxed{185\}", "185\\", "185\\"), ("<answer>12</answer>", None, "12"),
    ("#### 1\n#### 1,234\nok", None, "1,234"),
    ("<answer>12", None, None), ("The answer is 12.", None, "12"), ("Answer: 3.5. Bye", None,
    "3.5"),
    ("The answer is $x=2$, because 3.", None, "x=2"), ("Final Answer: **73**", None, "73"),
    ("The answer is \\(7\\) or not", None, "7"), ("the answer is B because (A) is wrong", None,
    "B"),
    ("we compute 12 then 15", None, None), ("", None, None), ("The answer is 12 apples.", None,
    "12 apples"),
    ("Answer: 5<|im_end|>\n<|im_start|>user\nAnswer: 6", None, "5"), (r"\boxed{\boxed{3}}", "3", "3"),
]


@pytest.mark.parametrize("response, strict, loose", EXTRACTIONS)
def test_extract(response, strict, loose):
    """A lost brace, a fallback in strict mode, the first instead of the last box, a rewarded open box."""
    assert reward.extract_answer(response) == strict
    assert reward.extract_answer(response, loose=True) == loose


# ---- attacks: none may be right, slow, or have an effect -----------------------------------------

def attacks():
    """(response, ground truth) pairs that must not be rewarded."""
    code = ["__import__('os').system('touch PWNED')", "open('PWNED','w')", "exec('1')",
        "eval('42')", "42 if True else 0",
            "(lambda: 42)()", "[42 for _ in [1]][0]", "().__class__.__bases__", "`42`",
            "$(echo 42)",
            "sympy.Integer(42)", "Integer(42)", "S(42)", "N(42)", "f'{42}'", "int('42')", "42#",
            "42;import os", "a=42;a",
            "float('nan')", "globals()", "x.__init__", "print(42)", r"\input{/etc/passwd}",
            r"\write18{touch PWNED}",
            r"\def\a{42}\a", r"\newcommand{\x}{42}\x", "True", "None", "42.__class__",
            "os.environ", "<script>42</script>"]
    towers = ["9**9**9**9", "9^{9^{9^9}}", "2^{10^{10}}", "10^{10^{100}}", "(10^{99})!",
        "1000000!", "99999!!", "((9!)!)!",
              r"\binom{10^9}{5\cdot 10^8}", r"\gcd(10^{9999},10^{9998})", "1e999999999",
              "1e-999999999", "9"*1999,
              "0."+"3"*1900, r"e^{e^{e^{e^{9}}}}", r"\exp(\exp(\exp(99)))", r"\sin(10^{10^{5}})",
              r"\ln(10^{10^{9}})",
              r"\lfloor 10^{6000}\pi \rfloor", r"\sqrt{" * 60 + "2" + "}" * 60, "2^" * 300 + "2",
              "x^" * 200 + "2",
              "+".join(["x^{99}"] * 120), "*".join(["99999999999"] * 190),
              "/".join(["7^{99}"] * 150),
              "(x+1)^{99999}", "(x+y+z)^{1000}(x-y)^{1000}", r"\frac1" * 300, "1/" * 600 + "1",
              r"\cosh(10^{9})",
              r"\Gamma(10^9)", "(0.1)^{99999999}", r"\log_{1}5", r"\log_0 5", r"\tan 90^\circ",
              "1/0", "0^{-1}", "0/0",
              r"\infty-\infty", r"\frac{\infty}{\infty}", r"\sum_{k=1}^{10^{10}} k",
              r"\int_0^{9^{9^9}} x", "10^{-10^{10}}",
              r"\pm" * 30 + "1", r"1\pm2\pm3\pm4\pm5\pm6\pm7",
              ",".join(str(i) for i in range(190)), ",".join(["x"] * 190),
              ",".join(rf"\sqrt{{{i}}}" for i in range(60)),
              r"\cup".join(f"({i},{i+1})" for i in range(60))]
    texts = ["(" * 1000, ")" * 1000, "[" * 900 + "]" * 900, "{" * 999, r"\{" * 500,
        r"\frac{" * 300, r"\left(" * 300,
             "-" * 1900, "!" * 1900, "^" * 1000, "_" * 1000, "|" * 1999, "a" * 1999, "a b " * 499,
             "1 " * 999, "1,000" * 300,
             "," * 1999, "1," * 999, "$" * 1999, "\\" * 1999, r"\boxed{" * 280, " " * 1999 + "x",
             "0" * 1999 + "x", "." * 1999,
             "and " * 450, r"\text{" * 300, r"\text{a}" * 280, r"\begin{pmatrix}" * 130,
             r"\begin{pmatrix}" + "1&" * 800,
             "&" * 1000, r"\\" * 999, "=" * 1999, "x=" * 900, "<" * 1999, "1<" * 900, "\n" * 1999,
             "\t1" * 900, "'" * 1900,
             "x'" * 900, "%" * 1900, r"\sqrt[" * 300, r"\sin" * 499, "sin" * 600, r"\log_" * 390,
             r"\cup" * 490,
             "1\\frac12" * 240, "((((1,2),3),4),5)" * 100, "é" * 1999, "\u0000" * 999,
             "\U0001d7d9" * 999, "\u202e24", "²" * 900,
             "½" * 900, "\ufdfa" * 900, "①②③", "٤٣", "４３", "𝟒𝟑", "\ud800", "४३", "〇", "Ⅳ",
             "\u200b\u200b", "🙂", "4\u20e32"]
    hedges = [r"42 \text{ or maybe 43}", "42" + " " * 1990 + "or 43", "42" + " " * 2990 + "or 43", "42 not",
              "n! = 42", "|x| = 42", r"\ln x = 42", "x^2 = 42", r"42 \text{ (43)}", r"42\text{ and so on}",
              "41 or 42", "41, 42", "42, 41", r"\{41, 42\}", "41/42", "42 or 41", "(42, 41)",
        r"42 \pm 1", "[41, 43]", "41 < x < 43",
              "x > 41", "> 41", r"\approx 41", "42 = 43", "43 = 42", "42x", "x + 42",
              "x + 42 = 84", "42 - 1", "42, 42, 41", "421", "4 2",
              "4,2", "not 42", "42 or more", "between 41 and 43", "41 to 43", "42:1:1", "42_7",
              "42!", r"42\%42", "-42", "42i", "42 i",
              r"\neq 42", "x \\ne 42", r"\mathbb{R}", "any number", "the answer", "A", "?", "x",
              "?=42 or 41", "0.42", "42 42",
              "42.0001", "41.99999999", "42e1", "42 mod 5", "42 + x - y", r"42 \text{ or } 43",
              "[42, 42.1]", "42^2", "f(42)"]
    pairs = [(rf"\boxed{{{text}}}", "42") for text in code + towers + texts + hedges]
    pairs += [(text * 20_000, "42") for text in (
        r"\boxed{a\}", r"\boxed{", r"\boxed{1} and ", "\\box ", "{", "}", "answer is ", "answer: ",
        "answer \\[", "####", "<answer>", "</think>", "Answer: $", "final answer ", "\\(", "answer ",
        "answer is **", " ", ".", ", ", "\n", "Answer:" + " " * 99)]
    pairs += [(rf"\boxed{{4{text * (1990 // len(text))}x}}", "42") for text in (
        " ", "~", "\\ ", "\\,", ".", ",", " .", ", ", "x ", "\\quad", "**", "\\text{ ", "\t", "\u2003", "{,}",
        "^", "1 ", "1/", "1\\frac", "\\frac1", "(x", "\\{x|", "f(x)=", " U ", ")U", "1,", "1,000,", ".1", "1.",
        "0.\\overline{", "{\\over", "{x\\choose ", "\\left", "\\right.", "\\mathrm{", " to ", "1 to ",
        "A ", "A)", "(A)", "option", "e1", "1e", "\\circ", "degree", "\\begin{matrix}", "in", " base ",
        "million", "a_", "_{1}")]
    pairs += [(text, "42") for text in ("42", "The answer is 42", "#### 42", "<answer>42</answer>",
        r"\boxed{42} \boxed{",
              r"<think>\boxed{42}</think>", r"\boxed{42} or \boxed{43}",
              r"\boxed{41} and \boxed{42}", r"\boxed{}", r"\boxed",
              r"boxed{42}", r"\boxed 42", r"\boxed{42", r"\boxed{42} but rather \boxed{41}",
              r"\boxed{\boxed{}}", "x" * 10**6)]
    pairs += [(rf"\boxed{{{text}}}", gold) for text, gold in (
        ("((((", "(((((("), (r"\foo", r"\bar"), ("@", "#"), ("^^", "^"), ("1/0", "2/0"), ("0/0",
        "1/0"), ("x^", "y^"),
        (r"\frac{", r"\frac{{"), ("A" + " " * 300 + "or B", "A"), ("A or B", "A"), ("", ""), (" ", ""), ("5", ""), ("", "5"), ("$", "$$"), ("{",
        "}"), ("()", "[]"),
        ("\\", "\\\\"), ("x=", "=x"), ("9^{9^9}", "9^{9^9}+1"), ("10^{9999}", "10^{9999}+1"),
        ("\ud800", "\ud801"), ("Evaluate: 42", "42"), ("What is 6*7?", "42"))]
    return pairs


ATTACKS = attacks()


def test_attacks_are_held_in_time():
    """A text that is rewarded, raises, or takes longer than a second (or leaves the grader broken)."""
    assert len(ATTACKS) >= 200
    slowest = (0.0, "")
    for response, gold in ATTACKS:
        start = time.perf_counter()
        got = [reward.score(response, gold), reward.score(gold and rf"\boxed{{{gold}}}",
            response[:3000]) * 0]
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
names = ("exec", "compile", "open", "os.system", "os.exec", "subprocess.Popen", "socket.connect",
         "os.remove", "import")
sys.addaudithook(lambda event, args: on and event in names and bad.append((event, str(args)[:200])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for response, gold in ATTACKS:
    reward.score(response, gold, loose=True)
on = False
assert not bad, bad[:5]
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True,
        text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (ROOT / "PWNED").exists()


# ---- properties ----------------------------------------------------------------------------------

def spell(tree, rng):
    """A random spelling of an expression tree: LaTeX or plain, reordered, spaced."""
    kind = tree[0]
    if kind == "number":
        scale = rng.choice((1, 1, 2, 3))
        top, bottom = tree[1].numerator * scale, tree[1].denominator * scale
        if bottom == scale == 1:
            return f"({top})" if top < 0 else str(top)
        return rng.choice((rf"\frac{{{top}}}{{{bottom}}}", f"({top}/{bottom})",
        rf"\dfrac{{{top}}}{{{bottom}}}"))
    if kind == "name":
        return rng.choice((tree[1], "{" + tree[1] + "}", tree[1] + " "))
    if kind == "square":
        inner = spell(tree[1], rng)
        return rng.choice((f"({inner})^2", f"({inner})({inner})", f"({inner})^{{2}}",
        f"({inner})**2"))
    children = list(tree[1:])
    rng.shuffle(children)
    if kind == "add":
        return "(" + rng.choice((" + ", "+")).join(spell(child, rng) for child in children) + ")"
    if len(children) == 2 and children[1][0] == "add" and rng.random() < .5:     # expand a(b + c)
        first, inner = children[0], children[1][1:]
        return "(" + "+".join(f"({spell(first, rng)})({spell(child, rng)})" for child in inner) + ")"
    return "(" + rng.choice((r" \cdot ", "*", ")(")).join(spell(child,
    rng) for child in children) + ")"


numbers = st.fractions(-20, 20, max_denominator=12).filter(bool).map(lambda value: ("number",
    value))
trees = st.recursive(numbers | st.sampled_from("xyab").map(lambda name: ("name", name)),
    lambda inner: st.one_of(
    st.tuples(st.sampled_from(("add", "multiply")), inner, inner), st.tuples(st.just("square"),
        inner)), max_leaves=6)


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
        assert reward.equal(decimal,
            str(value)) or value.denominator == 1 or float(decimal).is_integer()
    off = f"{float(value) * 1.00001:.12f}"
    assert not value or not reward.equal(off, str(value))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from(r"\{}()[]^_,.:;|&%$!=<>+-*/ 0123456789xyabei") | st.characters(),
    max_size=60), st.text(max_size=20))
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
    program = ("import sys, time; start = time.time(); import reward; "
               "print(time.time() - start, 'sympy' in sys.modules, 'torch' in sys.modules)")
    seconds, sympy, torch = subprocess.run([sys.executable, "-c", program], cwd=ROOT,
        capture_output=True, text=True).stdout.split()
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


@pytest.mark.parametrize("sent, reason", [(signal.SIGKILL, "crashed"), (signal.SIGSTOP, "timed out")])
def test_a_lost_worker_costs_one_answer(sent, reason, monkeypatch):
    """A killed or hanging worker that raises, blocks, or takes other answers with it."""
    children, calls, wait, popen = [], itertools.count(), reward.select.select, subprocess.Popen

    def start(*args, **kwargs):
        children.append(popen(*args, **kwargs))
        return children[-1]

    def wait_and_strike_once(*args):
        if next(calls) == 50:            # the worker's 50th answer is on its way
            os.kill(children[-1].pid, sent)
        return wait(*args)

    monkeypatch.setattr(reward.subprocess, "Popen", start)
    monkeypatch.setattr(reward.select, "select", wait_and_strike_once)
    counts, count = {}, 200
    scores = reward.score_batch([r"\boxed{\sqrt{8}}"] * count, [r"2\sqrt{2}"] * count, counts,
                                workers=1, seconds=1.0)
    assert sum(scores) == count - 1 and counts == {"right": count - 1, reason: 1}
    assert len(children) == 2 and all(child.poll() is not None for child in children)


def test_counts_and_lengths():
    """Reasons that are lost or mixed up; lists of different lengths that are cut silently."""
    counts = {}
    responses = [r"\boxed{1}", r"\boxed{2}", r"\boxed{((}", r"\boxed{1", r"\boxed{}", "1"]
    assert reward.score_batch(responses, ["1"] * 6, counts) == [1.0, 0, 0, 0, 0, 0]
    assert counts == {key: 1 for key in ("right", "wrong", "unparsable", "truncated", "empty box",
        "no answer")}
    with pytest.raises(ValueError, match="2 responses but 1"):
        reward.score_batch(["1", "2"], ["1"])


def test_parses():
    """A gold that nothing but its own text can match, and that no one hears of."""
    assert all(map(reward.parses, ("42", r"\frac12", r"\text{east}", "(1,2)", "B",
        r"\begin{pmatrix}1\2\end{pmatrix}")))
    assert not any(map(reward.parses, ("", "((", r"\frac{1}", r"\foo")))


@pytest.mark.parametrize("predicted, gold, right", [
    (r"\frac12", r"\frac{1}{2}", True), ("1/2", r"\frac{1}{2}", True), ("0.5", r"\frac{1}{2}",
    True), ("1,000", "1000", False),
    ("0.25", "1/4", False), ("3+2x", "2x+3", False), (r"\sqrt2", r"\sqrt{2}", True), ("x=5", "5",
    True), (r"\tfrac34", r"\frac34", True),
    (r"10\%", "10", True), (r"5\text{ cm}", "5", True), (r"30^\circ", "30", True), (".5", "0.5",
    True), ("long=5", "5", False),
    (r"\left( 1, 2 \right)", "(1,2)", True), (r"\$5", "5", True), ("A", "B", False)])
def test_strict(predicted, gold, right):
    """Strict mode that is more generous, or less, than the string rules it is to reproduce."""
    assert reward.equal(predicted, gold, strict=True) == right
    assert reward.score(rf"\boxed{{{predicted}}}", gold, strict=True) == right


def test_command_line():
    """An explanation that leaves out the extraction, a reading, or the verdict; a demo that fails."""
    run = lambda *args: subprocess.run([sys.executable, "reward.py", *args], cwd=ROOT,
    capture_output=True, text=True)
    shown = run(r"so \boxed{0.5}", "1/2").stdout
    assert "'0.5'" in shown and "ground truth" in shown and "right (same value)" in shown
    assert "not right (truncated)" in run(r"\boxed{5", "5").stdout
    demo = run()
    assert demo.returncode == 0 and "FAIL" not in demo.stdout


# ---- golds ---------------------------------------------------------------------------------------

DATA = os.environ.get("DSRL_DATA")
MADE_UP = ["7", "-3", r"\frac{3}{8}", r"2\sqrt{5}", "(3,-4)", r"[0,\infty)", r"\text{Tuesday}",
    r"{(C)}", "x^2+1", "120^\\circ", "1,250",
           r"3\pm\sqrt{7}", r"\begin{pmatrix}2\-1\end{pmatrix}", "y=4x-1", "5:3", "1011_2",
           r"40\%", "6\\text{ cm}", "2.50", r"\{1,4\}"]


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
            golds |= ({last_box(row["solution"])} if name == "minerva" else set(map(str,
                row["final_answer"]))
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
