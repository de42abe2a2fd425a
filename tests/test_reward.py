"""The grader: right answers recognised, wrong ones never, nothing executed, nothing hangs.

The reference is the table below, labelled by hand from README's "what a right answer is", and
rewriting of generated expressions whose value is known.  Real golds and labelled pairs are used
where DSRL_DATA names the folder that holds them.

    python -m pytest tests/test_reward.py -q
"""

import json
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import reward
from plumbing import answers, spelling

CASES = {  # kind: pairs, separated by three spaces; == right, != wrong
    "number": r"""
        12\;345 == 12345   1~000~000 == 1000000   0.1666... == 1/6   0.333\ldots == 1/3   0.12... != 0.12
        +12 == 12   12.00 == 12   -0.0 == 0   12,00 != 1200   \text{12} == 12   \mathrm{12} == 12
        {12} == 12   [12] == 12   12.0.0 != 12   12 13 != 1213   12\ 345 == 12345   3.14 != 3.14159
        0.1428571 == 1/7   0.1429 != 1/7   2.9999999 != 3.0   0.0000001 != 0.0
        1000000.5 == 1000000.6   123456789 != 123456788   0.\overline{3} == 1/3
        0.1\bar{6} == \frac16
        0.1\bar{6} != 0.6   0.75(12) == 9   33\frac{1}{3}. == 100/3   1.(6) != 6   30th == 30
        7^{\text{th}} == 7   -(-3) == 3   1'000 == 1000   12’345’678 == 12345678   1,00,000 == 100000
        12,34,567 == 1234567   ١٬٢٣٤ == 1234   7 ✅ == 7   8 ✅ != 7   7 ✅ 8 != 7
        7 ❌ != 7   7♠ != 7♥   ✅ != ❌   ✅ == ✅
         1,00,000 != 1000   1,00,00 != 10000   ٣٫١٤ == 3.14   f'000 != f000
        3 .5 != 3.5   12 = 5+7 == 12
        5+7=13 != 12   \infty != 1000000   1\!,\!234 == 1234   \(12\) == 12
        \displaystyle 12 == 12   "12" == 12   12 , == 12   three != 3   0x10 != 16
        \underline{12} == 12   1.0 \times 10^1 == 10   1729 == 1{,}729   -\frac{0}{3} == 0""",
    "fraction": r"""
        \frac36 == 1/2   \frac3{6} == 1/2   {3 \over 6} == 1/2   \cfrac{3}{6} == 1/2
        \frac{-3}{6} == -\frac12   -\frac{-3}{6} == \frac12   \frac{6}{3} != \frac{3}{6}
        0.33 != \frac{1}{3}   1/3 == 0.333333   \frac{1}{1} == 1   \frac{1.5}{2} == 0.75
        \frac{2}{3}\div\frac{4}{5} == 5/6   \frac{7}{12} \approx 0.583 == 7/12
        \frac{7}{12}, 0.58333 != 7/12   \frac{1}{2}\text{.} == 1/2   1\over2 == 1/2
        \frac{10{,}000}{3} == 10000/3   1/2/3 == 1/6   \frac{}{} != 0
        \frac{5}{12}\text{ of the pizza} == 5/12""",
    "percent": r"""
        35\% == 35   35 == 35\%   35 != 0.35   3.5\% != 35\%   35 \text{ percent} == 35\%
        35percent == 35\%   33\frac{1}{3}\% == 1/3   100\% == 1   -20\% != 20\%   0.2\% != 20
        62.5\% == \frac58   5\% != 0.5""",
    "unit": r"""
        12 cm == 12   12 \text{ cm}^3 == 12   12\mathrm{~kg} == 12
        1.69\ \mathring{A} == 1.69   1.69 \AA == 1.69   0.49'' == 0.49   0.49 \text{ arcsec} == 0.49   0.49^{\prime\prime} == 0.49
        1.4 \mathrm{~cm}^{2} / \mathrm{sec} == 1.4   44 \text{ million} == 4.4e7   2 billion people == 2e9
        12 kN == 12   5 GHz == 5   3 keV == 3   12 km h^{-1} == 12   5mA == 5   12V/m == 12
        7 kJ mol^{-1} == 7   4 J/(kg*K) == 4   9.8 \frac{m}{s^2} == 9.8   2 N\cdot m == 2
        2\pi m == 2\pi   \frac{1}{2} m == 0.5   6\times 10^{-4} T == 6\times 10^{-4}
        12 m/sec == 12   3 L atm == 3   12 kJ != 12000 J   12 m != 12 s   5 x != 5   12mn != 12
        3x m != 3x   \frac{mg}{k} == mg/k   x^2 kN != x^2   4 kN x != 4   5 kNx != 5   5 kN + 1 != 5   2 x m != 2
        5\,\Omega == 5   5 Ω == 5   5\,k\Omega == 5   5\,\text{m}\Omega == 5   5\,\mu m == 5
        12 kph == 12   5\ \mu\mathrm{C} == 5   3\mu != 3   100℃ == 100   9.8 m s^{-2} == 9.8   5 J/K == 5   5 m != 5m+1   30^3 != 30   5 m s^2 t != 5
        9.8\,\text{m/s}^2 == 9.8 m/s^2   5\ \mathrm{J\,mol^{-1}\,K^{-1}} == 5
        12 \frac{\text{m}}{\text{s}} == 12   12 \, \text{m} \cdot \text{s}^{-1} == 12
        12\text{ square meters} == 12   12 cubic feet == 12   \$12.50 == 12.5
        12 more == 12   12\pi \text{ cm}^2 == 12\pi
        \frac{3}{5}\text{ m} == 3/5   12\text{ cm} == 12\text{ m}   12^{\circ} == 12^\circ
        12 degrees Celsius == 12   \text{12 units} == 12   12 N == 12   12 years == 12
        \text{approximately } 12 != 12   12 \text{ ways} == 12
        12 \text{ cm or } 13 \text{ cm} != 12   5\text{ ft } 3\text{ in} != 5
        3 \text{ squared} != 3   12 \text{ cm squared} == 12   \cos 58^\circ == \cos58
        \cos 59^\circ != \cos58   3 for every 4 != 3   5 hundredths != 5
        3, 5 (extraneous) != 3,5   -3 out of 4 != -12
        9.8\mathrm{~m\,s^{-2}} == 9.8   2^1 hours 30 minutes != 60   \frac31 \text{ mod } 4 != 12
        1.5\text{ million} == 1500000   44 million != 44   3\text{ hours }20\text{ minutes} != 3   12\,\Omega == 12
        €12 == 12   45 miles == 45\text{ miles}   1.6 \text{ g/cm}^3 == 1.6
        4.5\times 10^{33}\ \mathrm{erg}/\mathrm{s} == 4.5e33   60^\circ != \frac{\pi}{3}
        \theta = 60^{\circ} == 60^\circ   \cos(60^\circ) == 0.5   \tan(45^{\circ}) == 1
        60^\circ, 120^\circ == 60, 120   -45^\circ != 45   120^\circ != 60^\circ""",
    "what is said of names": r"""
        n \text{ even} != n \text{ odd}   n \text{ odd} != n   n^2 \text{ odd} != n^2\text{ even}
        n \text{ prime} != n \text{ composite}   f \text{ increasing} != f \text{ decreasing}
        2n\text{ for odd }n != 2n\text{ for even }n   A \text{ wins} != A \text{ loses}
        p\text{ implies }q != q\text{ implies }p   x\text{-axis} != x\text{-intercept}
        3x \text{ cm} == 3x   x \text{ dollars} == x   \sqrt{2} a \text{ square units} == \sqrt2 a
        p\land q != p\lor q   p \wedge q != p \vee q   p\land q == q \land p   HTH != HHT   CAB != ABC
        \text{CAB} != \text{ABC}   \angle ABC != \angle BAC   AB == BA   [ABC] = 12 == 12
        x<1 \lor x>4 == (-\infty,1)\cup(4,\infty)   \overline{AB} = 5 == 5   \bar{x} = 5 == 5
        \overline{A}\cap B != A\cap B   \bar z != z   2\bar z+1 != 2z+1   \overline{z} == \bar z
        -2<x<2, x\in\mathbb{Z} != -2<x<2   1\le n\le 5, n\in\mathbb{Z} != [1,5]   k\pi, k∈N != k\pi, k∈Z
        7\text{ is too large} != 7   7\text{ cannot occur} != 7   7\text{ below zero} != 7
        7\text{ gross} != 7   7\text{ doubled} != 7   C_{10}^{3} == 120   {}_{10}C_3 == 120
        0.\dot{3}\dot{6} == \frac{4}{11}""",
    "any script": r"""
        7的平方 != 7   7倒数 != 7   7平方 != 7   7多 != 7   7舍去 != 7   7平方厘米 == 7   7百万 == 7000000
        7千万 == 70000000   7万亿 == 7e12   7折 != 7
        3或2 == 2,3   x=2或x=3 == 2, 3   x<1 或 x>4 == (-\infty,1)\cup(4,\infty)   ②、③、④ == ②③④
        ③④② == ②③④   ②③④ != 234   3.5千克 == 3.5   60千米/时 == 60   5千 == 5000   5万 == 50000
        3.5万元 != 3.5   2百分点 == 2   3个以上 != 3   3以下 != 3   3打 != 3   3成 != 3   负3 != 3   大于3 != 3
        至少3个 != 3   第3个 != 3   3个 == 3
        да == \text{да}   Да == да   нет != да   हाँ == \text{हाँ}   是 == 是   是 != 否   5元 == 5
        120 ₽ == 120   ₹5 == 5   5。 == 5   5 метров == 5   5 मीटर == 5   5 سانتی‌متر == 5   5元 != 6
        42 или 43 != 42   42、43 != 42   42→ != 42   5万 != 5   5万元 != 5   5三 != 5   5 cafés == 5""",
    "currency, modulus, time": r"""
        \text{USD } 12 == 12   USD 18.90 == 18.9   NOT 42 != 42   12 USD == 12
        5 books == 5   3 pies == 3   5 foot == 5   12 rooms == 12   2 pints == 2   2pir == 2\pi r
        (-oo,3) == x<3   30\text{ sec} == 30   x-y != y-x
        7 \pmod{11} == 7   7 \pmod{11} != 7 \pmod{13}   7 \pmod{11} == 7\pmod {11}   7 (mod 11) == 7
        7 \text{ (mod } 11) == 7   7 \text{ (mod 11)} == 7   8 \pmod{11} != 7   42 mod 5 != 42
        10:00 a.m. == 10 a.m.   10:00 \text{ AM} == 10 am   10:00 a.m. != 10 p.m.
        10:00 AM == 10:00   10:30 a.m. != 10 a.m.""",
    "mixed, scientific": r"""
        2\frac{1}{3} == 7/3   2\dfrac{1}{3} == 2.3333333   -2\frac{1}{3} != -5/3   2 1/3 == 7/3
        2\frac{1}{3} \text{ hours} == 7/3   10\frac{1}{2} == 10.5   2\frac{7}{3} == 14/3
        2(\frac13) == 2/3   3.2 \times 10^{5} == 3.2e5   3.2E+5 == 320000   3.2*10^5 == 320000
        3.2×10^5 == 320000   3.2x10^5 == 320000   1.0\times10^{-3} == 0.001
        3.2\times10^5 != 3.2\times10^6   3.83 \times 10^{35} == 3.83e35
        32\times10^4 == 3.2\times10^5   10¹² == 10^{12}   10¹² != 10   3.2×10⁻³ == 0.0032""",
    "base": r"""
        2516_{\text{eight}} == 2516_8   2516_{\text{nine}} != 2516_8
        1011_{2} == 1011_2   1011_{two} == 1011_2   11 != 1011_2   1011_2 != 1011
        \text{1011}_2 == 1011_2   1011_{(2)} == 1011_2   1{,}011_2 == 1011_2   221_3 != -221_3
        152A_{11} == 152A_{11}   \texttt{1011}_2 == 1011_2   1011 \text{ (base 2)} == 1011_2
        01011_2 == 1011_2   506 \text{ (base } 7) == 506_7   506 \text{ (base } 7 \text{)} == 506_7
        1\mathrm{AF}_{16} == 1AF_{16}   1011₂ == 1011_2   1011₂ != 10112   1011₁₀ == 1011""",
    "numeric": r"""
        1.5e^{-100} != 2.5e^{-100}   1万2千 != 20000000   3 million 500 thousand != 3500000
        \frac{1}{2} million == 500000
        \sqrt{2^{2018}+1} != 2^{1009}   \tanh 100 != 1   (1-e^{-100},2) != (1,2)   e^{2019}-1 != e^{2019}
        (\frac{1+√5}{2})^{100} != 792070839848372253127   e^{-100} != e^{-101}   \cosh 50 != \sinh 50
        \frac{\sqrt5}{5}((\frac{1+\sqrt5}{2})^{100}-(\frac{1-\sqrt5}{2})^{100}) == 354224848179261915075
        \sqrt{18} == 3\sqrt{2}   3\sqrt2 == \sqrt{18}   \frac{6}{\sqrt2} == 3\sqrt2
        \sqrt[3]{54} == 3\sqrt[3]{2}   2^{1/3} == \sqrt[3]{2}   \sqrt{4} != -2
        \sqrt{7+4\sqrt3} == 2+\sqrt3   sqrt(18) == 3sqrt(2)   4.24264 == 3\sqrt2
        \sqrt{\sqrt{16}} == 2   \sqrt{2}+\sqrt{8} == 3\sqrt2   2\sqrt{3}i == 2i\sqrt{3}
        \frac{\sqrt{6}}2 == \sqrt{1.5}   5^{\frac{1}{2}} == \sqrt5   (4\sqrt{2}) == 4\sqrt{2}
        \sqrt{x}^2 == x   \sin\frac{\pi}{6} == 1/2   \cos 36^\circ == \frac{1+\sqrt5}{4}
        \tan 15^\circ == 2-\sqrt3   \arctan(1) == \pi/4   \tan^{-1} 1 == \frac{\pi}{4}
        \log_2 32 == 5   \log_{2}(32) == 5   \log 100 == 2   \ln(e^3) == 3   \ln 2+\ln 3 == \ln 6
        \log_2 3 == \log_4 9   \frac{\ln 3}{\ln 2} == \log_2 3   e^{\ln 5} == 5   e^2 != 7.39
        \sin^2 2+\cos^2 2 == 1   \log_{10}2 == \lg 2   \csc 10 == \frac{1}{\sin 10}
        -\log_{10} 250 == -\log_{10}(250)   \arccos(-1) == \pi""",
    "symbolic": r"""
        \dot{x}_0 t == t \dot{x}_0   \dot{x}_{0} t != x_0 t   2\operatorname{cis}30^\circ == \sqrt3+i
        2\text{cis}\frac{\pi}{6} == \sqrt3+i
        x^2+x != x^2-x   3x+2 != 3x   -x+5 == 5-x   (x-2)(x+2) != x^2+4
        \frac{x+1}{x-1} == -\frac{x+1}{1-x}   x x == x^2   \frac{x}{3} == \frac13 x
        \sqrt{x} == x^{0.5}   e^{2x} == (e^x)^2   \cos(x)^2 == 1-\sin^2x
        \frac{n!}{2!(n-2)!} == \binom n2   a^2b == ba^2   AB == BA   ax+b == b+ax   x_{1} == x_1
        \pi r^2 == r^2\pi   2\pi r == 6.2831853r   |x-3| == |3-x|   (x+1)^2 - 1 == x^2+2x
        \frac{1}{x+y} != \frac1x+\frac1y   \frac{2x+4}{2} == x+2   4x^2 - 12x + 9 == (3-2x)^2
        t^2 != x^2   \theta == θ   x^2 y^2 == (xy)^2   f(x)+1 != f(x)+2
        \frac{\pi}{4} + n\pi != k\pi+\frac\pi4   C_1 e^{t}+C_2 e^{-t} == C_{1}e^{t}+C_{2}e^{-t}
        \lfloor n/2 \rfloor == \left\lfloor \frac{n}{2} \right\rfloor   \lfloor n/2 \rfloor != n/2
        mn-\lfloor\frac{n-3}{2}\rfloor != mn-\lfloor\frac m2\rfloor
        n-\lfloor\frac{n}{17}\rfloor != n
        \sin^{-1}\frac13 == \arcsin\frac13
        y+|xz| != y+xz
        \lceil\log_2 n\rceil != \lfloor\log_2 n\rfloor+1
        \lceil n/2\rceil+1 == \lfloor\frac{n+3}{2}\rfloor
        \lfloor\frac n2\rfloor+2 != \lceil\frac n2\rceil+1   x+y+z != x+y   2^{2009} != 2^{2008}
        \frac{99!}{2^{50}} != \frac{100!}{2^{50}}""",
    "equation": r"""
        x \equiv 10 \pmod{7} == 3 \pmod{7}   x \equiv -4 \pmod{7} == x\equiv 3 \mod 7   10 \pmod 7 != 3 \pmod 8
        x \equiv 5, 3 \pmod{7} == x\equiv 3,5 \pmod 7   x\equiv 1 \text{ or } 4 \pmod 5 == x\equiv 1,4\pmod 5
        x \equiv 3 \pmod{7} != x\equiv 3,5 \pmod 7   n\pi+\frac{\pi}{4}, n\in\mathbb{Z} == \frac{\pi}{4}+k\pi, k\in\mathbb{Z}
        \frac{n\pi}{2}, n∈Z == \frac{k\pi}{2}, k∈Z   n\pi, n∈Z != m\pi   C_{10}^3 == 120
        a_n = 2n - 1 \ (n \in \mathbb{N}^*) == a_{n}=2n-1   2n-1, n \in \mathbb{N}^* == 2n-1
        2k\pi \text{ for } k \in \mathbb{Z} == 2k\pi   4 \text{ (when } x = 2\text{)} == 4
        7, since x>0, or 43 != 7   7 because 43 is wrong, no, 43 != 7   5 \text{ kg (when } x=2) == 5
        5 \text{ kg since } x=2 == 5   {A:B} != B   BAC != ABC
        4 \text{ (attained at } x=2) == 4   4 \text{ (when } x=2\text{)} != 2
        f(x) \equiv 0, f(x) \equiv 1 == f(x)=0, f(x)=1   N \equiv 7 \pmod{1000} == 7   7 (\bmod 12) == 7
        f(x)=x+1,\ \forall x \in \mathbb{R} == f(x)=x+1   \Delta E = 7 == 7   S_{\triangle ABC} = 7 == 7
        \begin{cases} x=3 \\ y=4 \end{cases} == (3,4)   k = 7 \quad \text{(since } k>0) == 7
        \begin{cases} x & \text{if } x>0 \\ 0 & \text{else} \end{cases} != x
        x = 7 == 7   x=7 != 8   y=3x-2 == 3x-2   y=3x-2 != y=3x+2   3x-y=2 == 6x-2y=4
        y=3x-2 != -2   x+2=9 != 7   7=8 != 7   f(x)=x+1 == f(x)=1+x   f(t)=t+1 != f(x)=x+1
        x=1, y=2 != (2,1)   (x, y) = (1, 2) == x=1,y=2   x=1, x=2 == x=2,x=1   x=1 != 1,2
        a=1,b=2,c=3 == (1,2,3)   x^2+y^2=16 == \frac{x^2}{16}+\frac{y^2}{16}=1   x^2=16 != x=4
        x = \pm 4 == \pm 4   S=\frac{n(n+1)}{2} == \frac{n^2+n}{2}   \triangle ABC = 12 != 12
        \text{Perimeter} = 20 == 20   10x-4y-5z-20=0 == -10x+4y+5z+20=0   x = y = 3 == 3
        x \to 3 != 3   a = 2, a = -6-4\sqrt{2} == a=2, a=-6-4\sqrt{2}   AB=9, CD=4 == AB=9,CD=4
        AB=4, CD=9 != AB=9,CD=4   f(x)=x,f(x)=2-x == f(x)=2-x, f(x)=x   f(x)=x != f(x)=x,f(x)=2-x
        y^2-4x-6y+9=0 == (y-3)^2=4x   5=5=6 != 5   x=2\pi \approx 6.28 == 2\pi
        y'+ry=rx(t) == y^{\prime}+ry-rx(t)=0   y+g(x)=0 != y+g(t)=0   y=f(x)=2x == 2x
        f'(x)=3x^2 != f(x)=3x^2   m\ddot{x} != m\dot{x}   m\ddot{x} == x''m   0 != I(0)e^{-t}
        g(2)=5 == 5   2x(3) == 6x   n2^{n-1} == n\cdot2^{n-1}   x2 != 2x
        f^{-1}(x)=\frac{x-1}{2} == \frac{x-1}{2}   f^{-1}(x)=2x != f(x)=2x   \text{Sum} = 30 == 30
        \text{Least common multiple} = 30 == 30   \text{opposite of } x=5 != 5
        \text{not } x=5 != 5   \text{twice } x = 5 != 5   \text{wrong} = 5 != 5   not 0 != 0
        2, 1 != x=1, y=2   1, 2 == x=1, y=2   a_{n^2} != a_{n+2}   x=5<6 != x=5
        \cos(A)=\frac35 == 3/5
        f(x)=2x \text{ for all } x \in \mathbb{R} == 2x   3+2k, k\in\mathbb{Z} == 3+2k
        \text{Ann}=5 != \text{Bob}=5   m_{\max}=n+1 == n+1""",
    "inequality, interval": r"""
        x \gt 2 == x>2   x\geq2 == x\ge 2   x<2 != x>2   2 != x>2   1<x<5 != 1\le x\le5
        x \in (1,5) == (1,5)   x<1, x>5 == (-\infty,1)\cup(5,\infty)   -2x<-4 == x>2
        x+y\le 4 == 2x+2y\le8   k \geqslant 2 == k \ge 2   s^2\le8r^2 == 8r^2\ge s^2
        0<y\le3 == (0,3]   x \leq -3 \text{ or } x \geq 3 == (-\infty,-3]\cup[3,\infty)
        f(2)<f(1)<f(4) == f(2) < f(1) < f(4)   [2,5) != (2,5)   (2,5) != (5,2)
        \left(-\infty, \tfrac12\right] == (-\infty,0.5]
        (-\infty,-2)\cup(2,\infty) != (-\infty,-2)\cup(3,\infty)
        (-\infty,-2)\text{ or }(2,\infty) == (-\infty,-2)\cup(2,\infty)
        (-\infty,+\infty) == (-\infty,\infty)
        \mathbb{R}\backslash\{0\} == (-\infty,0)\cup(0,\infty)   [0,1]\cup[1,2] == [0,2]
        \{1\}\cup[2,3] == [2,3]\cup\{1\}   [0, \infty) == x\geq 0   (0,1) != 0,1
        (-\infty, 3) \cap (1, \infty) == (1,3)   x \in [0,1) == [0,1)   \emptyset != 0
        [−1, 1] == [-1,1]   k<0 \text{ or } k=1 == (-\infty,0)\cup\{1\}   x<2, x<1 != x<2
        \text{no integers } k\ge2 != k\ge2   \{1\},(0,2) != (0,2)""",
    "tuple": r"""
        x\le\sqrt{1/9} == (-\infty,1/3]   x > \log_{8} 2 == (1/3,\infty)   x\in[\sin(\pi/6)/3, 5] == [1/6,5]
        ]2,5[ == (2,5)   ]-\infty,-1[\cup]3,+\infty[ == (-\infty,-1)\cup(3,\infty)   ]2,5] != (2,5)
        [2,\sqrt{5}[ == [2,\sqrt{5})   (3, inf) == (3,\infty)   (-inf,-1) U (3, inf) == x<-1 or x>3
        \{x \mid x<-1 \text{ or } x>3\} == (-\infty,-1)\cup(3,\infty)   {x|x≤-1或x≥3} == x<=-1 or x>=3
        \{x \mid -\sqrt{11}<x<-2 \text{ or } x>3\} == (-\sqrt{11},-2)\cup(3,\infty)
        \{x \mid x<-1 \text{ or } x>3\} != (-\infty,-1]\cup(3,\infty)
        (3,4) != (4,3)   (3, 4) != 3, 4   \left( \frac{3}{2}, -13 \right) == (1.5,-13)
        (3.0,4) == (3,4)   (a,b)=(3,4) == (3,4)   (2,\pi/3) == (2,\frac{\pi}{3})
        (3,4),(5,6) == (5,6),(3,4)   (3,4) != (3,4),(5,6)   (3,4);(5,6) == (3,4),(5,6)
        (3,4),(5,6) != (4,3),(6,5)   5,4,3 != (3,4,5)   (1,1,1) != (1,1)   (x,y) != (y,x)
        (3, 4) != [3,4]   (10,000, 5) != (10000,5)   (12{,}000, 5) == (12000,5)
        (2,32) != (2,32),(8,18)   2<x<32 != (2,32),(8,18)   (2,4),(3,4) != (2,4)
        (2,4) \text{ or } (3,4) != (2,4)   (1,9) != (1,9),(3,3),(2,5)""",
    "list, set, plus-minus": r"""
        \frac12 \text{ or } 0.5 == 1/2   1/2, 50\% == 1/2   1/2, 0.6 != 1/2   1/2, 1/2, 0.5 != 1/2   5, 5 != 5, 6
        3,4 == 4,3   3 and 4 == 4, 3   3\text{ and }4 != 3   3,4,5 != 3,4   3,3 != 3   3,4 == 3{}4
        \{3,4\} == \{4,3\}   \{3, 4\} != (3,4)   -2,\frac32 == \frac{3}{2},-2
        \frac{1}{2}, \frac{1}{3} == \frac13,\frac12   1+i,1-i,-1+i,-1-i == \pm1\pm i
        1, 2, 3, 4 == 4,3,2,1   1,2,3,4 != 1,2,3,5   E, B, A == {A,B,E}   10^3, 10 == 10,1000
        2\text{ and }3\text{ and }5 == 2,3,5   1,-1,7,-7 == \pm1,\pm7   \{1\} != \{1,1\}
        \{0\} != \emptyset   1,2,\ldots,10 != 1,2,10   1000,2000 == 1000, 2000   1,234 == 1,234
        \pm5 != 5   -5,5 == \pm5   1\pm\sqrt{19} != 1\pm\sqrt{18}   3\pm2\sqrt2 != 3+2\sqrt{2}
        \frac{3\pm\sqrt5}{2} == \frac{3+\sqrt5}{2},\frac{3-\sqrt5}{2}   x=\pm1 == -1,1   ±5 == 5,-5
        \{1\pm\sqrt{5},-2\} == -2,1-\sqrt5,1+\sqrt5   \lbrace 3,4\rbrace == \{3,4\}
        \text{B and C} == B,C   \text{A, D} == {A,D}   \text{A, D} != A,C""",
    "matrix": r"""
        \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} == \begin{bmatrix}1&2\\3&4\end{bmatrix}
        \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} != \begin{pmatrix}1&2\\4&3\end{pmatrix}
        \begin{pmatrix} 1 \\ 2 \end{pmatrix} != \begin{pmatrix} 1 & 2 \end{pmatrix}
        \begin{pmatrix} 1 \\ 2 \end{pmatrix} != \begin{pmatrix} 2 \\ 1 \end{pmatrix}
        \begin{pmatrix}1&-1\\1&-1\end{pmatrix} != \begin{pmatrix}1&-1\1&\phantom-1\end{pmatrix}
        \begin{pmatrix}1\\[6pt]2\end{pmatrix} == \begin{pmatrix}1\\2\end{pmatrix}
        \mathbf{v}=2\begin{pmatrix}1\\2\end{pmatrix}=\begin{pmatrix}2\\4\end{pmatrix} == (2,4)
        \mathbf{A}^{-1}=\begin{pmatrix}1\\2\end{pmatrix} == \begin{pmatrix}1\\2\end{pmatrix}
        \begin{pmatrix}1\\2\\3\end{pmatrix} != \begin{pmatrix}1\\2\end{pmatrix}
        \begin{vmatrix}1&2\\3&4\end{vmatrix} != \begin{pmatrix}1&2\\3&4\end{pmatrix}""",
    "ratio": r"""
        2∶3 == 2:3
        2 to 3 == 2:3   \text{4 to 6} == 2:3   4{:}6 == 2:3   2 to 3 != 3:2   2:3 == 2:3   2:3 != 3:2   2 : 3 == 2:3   2\text{:}3 == 2:3   1:2:4 != 1:2:3
        a:b=2:3 == 2:3   2:3 != 0.6667   1:\sqrt3 == \sqrt3:3   05:00 == 05:00""",
    "choice": r"""
        12 == \textbf{(B)}\ 12   \textbf{(D)}\ 12\pi == 12\pi   \frac12 == \textbf{(A)}\ \frac{1}{2}
        13 != \textbf{(B)}\ 12   B == \textbf{(B)}\ 12   C != \textbf{(B)}\ 12   12 == \text{(B) 12}
        (B) 12 == \textbf{(B)}\ 12   (C) 12 != \textbf{(B)}\ 12   12 == B. 12   (A) 5 != 12
        A, C, D == ACD   A, D, C == ACD   A and C and D == ACD   (A), (C), (D) == ACD   A, C != ACD
        AB == A, B   A, B, C, D != ACD
        A == A   \text{A} == A   \textbf{A} == A   (A) 12 == A   A. 12 == A   a == A   A, B != A
        A or B != A   not A != A   AB != A   Option A == A   A == \text{(A)}   A == (A) Paris
        ABD == ABD   A != 12   K == K   A/B != A   A. B != A   A, == A
        A. b != A   (A) (b) (c) != A   A. actually b != A   A: false != A
        A. is not correct != A""",
    "text": r"""
        Yes == yes   \text{yes.} == yes   yes and no != yes   not even != even   even != odd
        Evelyn != Navin   October 30 == {October30}   \text{no solution} == \text{No solution}
        None == none   \text{parabola} == {parabola}   Monday == {Monday}   1:03 PM == {1:03PM}
        4:30 p.m. == {4:30p.m.}   1:03 AM != {1:03PM}   \text{neither} == {neither}
        \texttt{Friday} == Friday
        the answer is Friday != Friday   empty == {empty}   x\text{-axis} == x-axis
        E_1, E_2 == E_{1},E_{2}   45\text{ units}^2 == 45{units}^2   15 == 15\mbox{ cm}^2""",
    "hedge, and all kinds": r"""
        42 \text{ or } 42.5 != 42   41 \text{ or } 42 != 42   \{41,42,43\} != 42   42? != 42
        42/1 == 42   42\ne43 != 42   x>42 != 42   42,42 != 42   42;43 != 42
        42\text{ (or }43) != 42   42\cdot1 == 42   x != 42   42n != 42   42^{1} == 42
        42 \land 43 != 42   42 | 43 != 42   42 \Rightarrow 43 != 42   42 \to 42 != 42
        42\text{ to }43 != 42   42\equiv 1 \pmod 5 != 42   answer != 42   \text{} != 42
        \text{42, 43} != 42   x=42 \text{ or } x=43 != 42   \approx 42 == 42   42... != 42
        1.0e-3 == .001   -\$5 == -5   5\,000 == 5000   5.000 == 5   5,000 != 5
        \frac{1}{3} \text{ of a mile} == 1/3   \frac{1}{2}\ln 2 == \ln\sqrt{2}   6.28 != 2\pi
        6.283185307 != 2\pi x   \frac{1}{2} (x + 1) == \frac{x+1}{2}   x+1/2 != \frac{x+1}{2}
        2^{10} - 1 == 1023   \binom{10}{3} == 120   {10 \choose 3} == 120   5P2 != 20
        \sqrt{3/4} == \frac{\sqrt3}{2}   1+2i == 2i+1   3-4i != 3+4i
        \cos 60^\circ + i\sin 60^\circ == \frac12+\frac{\sqrt3}{2}i   \text{cis } 60^\circ != 60
        \log_2(x)+\log_2(y) == \log_2(xy)   \ln x - \ln y == \ln(x/y)   \log_5 {625} == 4
        (-\infty, 0) \cup (0, \infty) == x\neq 0
        \{x\in\mathbb{R}: x\neq 0\} == (-\infty, 0) \cup (0, \infty)   x \in (-\infty, 3] == x\le3
        (-\infty, 3] == \left(-\infty,3\right]   2 \le x \le 3 == [2,3]   [2,3] != \{2,3\}
        (2, 3) \cup (4, 5) == (2,3),(4,5)   t>0 == (0,\infty)
        \text{all real numbers} == \text{all real numbers}   x<3 \text{ and } x>1 == (1,3)
        \frac{x^2}{4}-\frac{y^2}{9}=1 == 9x^2-4y^2=36   y=2x == x=\frac{y}{2}
        x^2+y^2+2x=0 == (x+1)^2+y^2=1   y = \frac{1}{2}x + 3 == y=0.5x+3   x=2,y=-1 == y=-1,x=2
        (2,-1) == x=2,y=-1   x=2 \quad y=-1 != (2,-1)   x\in\{-1,2\} == -1,2   x = -1, 2 == 2,-1
        a = 3 \text{ and } b = 4 == (3,4)   x = 5 \text{ or } 6 == 5,6
        (1,2,3),(3,2,1) == (3,2,1),(1,2,3)   (1,2);(2,1) == (2,1),(1,2)
        (1, -\frac{1}{2}) == (1,-0.5)   (\pi,e) == (\pi, e)   (1,2)\text{ or }(3,4) == (1,2),(3,4)
        [(1,2)] == (1,2)   \mathbf{i}+2\mathbf{j} != (1,2)
        \begin{pmatrix} 1 \\ -2 \end{pmatrix} == \begin{bmatrix} 1 \\ -2 \end{bmatrix}
        \begin{pmatrix}1&2\\3&4\end{pmatrix} != \begin{pmatrix}1&2&3\\4&5&6\end{pmatrix}
        \begin{pmatrix}1&2\\3&4\end{pmatrix} != (1,2,3,4)   12 : 5 == 12:5   24:10 == 12:5
        \frac{12}{5} == 12:5   \text{12:5} == 12:5   3:00 == 3:00   10:30 == 10:30 \text{ a.m.}
        \textbf{(B) }12 == B   (B)\ 12 == B   B \text{ and } C == B,C   A or C != C
        The answer is B != B   \text{(B)} != \text{(C)}   F == F   false == False   alice == Alice
        Alice != Alice, Bob   \text{a circle} != circle   \text{Thursday} == Thursday
        \text{June 20} == June 20   20 June != June 20   north-east == northeast
        \text{rational} != \text{irrational}   A=5 == 5   \text{Area} = 5\pi \text{ cm}^2 == 5\pi
        \theta = \frac{\pi}{3} == \frac{\pi}{3}   P(X = 2) = \frac{3}{8} == \frac38
        \sin\theta = \frac35 == \frac35   |AB|=5 == 5   f(x) = 2x, x>0 != 2x   a_{10} = 5 == 5
        S_n = \frac{n(n+1)}{2} == \frac{n(n+1)}{2}   \lim_{x\to0} f(x) = 5 != 5   2x = 4 != 4
        xy = 4 != 4   \sqrt{x} = 4 != 4   x! = 24 != 24   x = 4 \neq 5 != 4   x \leq 4 != 4
        4 \leq x != 4   x \approx 4.1 != 4   x \propto 4 != 4   \mp 4 != 4   |4| == 4
        \lfloor 4.5 \rfloor == 4   4\% == 0.04   400\% == 4   4^\circ == 4   4" == 4   4//1 != 4
        4 \bmod 3 != 1   4 \text{ or } 4 != 4   (4,4) != 4   4 \text{ maybe} != 4
        4\text{ five} != 4   4k != 4   4!/6 == 4   4. == 4   4+0 == 4   4i != 4   4\pi != 4
        4e0 == 4   0.4e1 == 4   4_5 != 4   4^1 == 4   \sqrt{16} == 4   2^2 == 4   8/2 == 4
        \{4\} == 4   (4) == 4   \left\{4\right\} == 4   4.0000001 != 4   4.00 == 4
        4 cm^2 and 5 cm^2 != 4   4 \text{ solutions} == 4   4 real solutions == 4   IV != 4
        100_2 != 4   4+x-x == 4   4\sin^2x+4\cos^2x == 4   +\infty == \infty   -\infty != \infty
        \infty != -\infty   A) or B) != A   A. or b != A   C. A circle == C   (B) 2 or 3 == B
        1.5 dollars != 15 dollars   5 plus eleven != 5   x-axis == x axis
        \pm1\pm i == 1+i,1-i,-1+i,-1-i   (\pm1,2) == (1,2),(-1,2)
        (\pm1,\pm2) != (1,2),(-1,2),(1,-2),(-1,-2)   |x||y| == |xy|   |x|y == y|x|
        \frac{|x|}{2} == 0.5|x|   || != 0   |x != x   |a|b|c| != |a||b||c|   ab! != ab   a:b != ab
        x - yz != xyz   non-empty == nonempty   no, yes != noyes   -xy != xy   ab != -ab
        yes = no != yes   east=west != west   B rather than C != B
        12 \mathrm{~m} \mathrm{~s}^{-1} == 12   \sqrt{-1} == i   x = e == e   answer = 5 == 5
        2.19\times10^{6} == 2.19e6   2.2\times 10^6 != 2.19e6   e^{-t/\tau} == e^{-\frac{t}{\tau}}
        \ln 2 + \frac{i\pi}{3} == \ln 2 + i\pi / 3   b! != b   b' != b   A' != A   (B). == B
        [B] == B   Option (B) == B""",
}
ROWS = [
    (*re.split(" (?:==|!=) ", pair), " == " in pair)
    for pairs in CASES.values()
    for pair in re.split("   |\n +", pairs.strip())
]


def test_cases():
    """Any rule of the policy that is missing or too generous, bare, in a box, or turned around."""
    wrong = [(a, b) for a, b, right in ROWS if reward.equal(a, b) != right]
    wrong += [(a, b) for a, b, right in ROWS if reward.score(rf"So $\boxed{{{a}}}$.", b) != right]
    is_unit = re.compile(r"[\d}i] [A-Za-z](?:$| atm|\\cdot m|/)|\dV/m")  # a product, in a gold
    one_way = {(a, b) for a, b, _ in ROWS if is_unit.search(a)}
    wrong += [
        (b, a) for a, b, right in ROWS if reward.equal(b, a) != right and (a, b) not in one_way
    ]
    assert not wrong


EXTRACTIONS = [  # response, strict extraction, loose extraction if that differs
    (r"\boxed{7}", "7"), (r"\boxed {7}", "7"), (r"\fbox{7}", "7"), (r"\boxed{\boxed{3}}", "3"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{1} and \boxed{2}", "1, 2"), (r"\boxed{1}, \boxed{2} or \boxed{3}", "1, 2, 3"),
    (r"$\boxed{1}$ \quad \text{and} \quad $\boxed{2}$", "1, 2"), (r"\boxed{5} \boxed{5}", "5"),
    (r"x=\boxed{6}, y=\boxed{7}", "7"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{7} or so. Then \boxed{", None), (r"\boxed{7}. Final: \boxed{}", None),
    (r"\boxed{\frac{1}{2}", None), (r"\boxed{3}</think> so it is 4", None), ("", None),
    (r"<think>\boxed{3}</think>\boxed{4}", "4"), (r"<think>So it is \boxed{3}", None),
    (r"\boxed{4} <think> or \boxed{5}", "4"), ("答案是7。因此结束", None, "7"), ("答案：$12$", None, "12"),
    (r"\boxed{185\}", "185\\"),
    ("<answer>12</answer>", None, "12"), ("<answer>12", None), ("we get 12 then 15", None),
    ("#### 1\n#### 1,234\nok", None, "1,234"), ("Final Answer: **73**", None, "73"),
    ("The answer is 12.", None, "12"), ("Answer: 3.5. Bye", None, "3.5"),
    ("**Final Answer**: $4$", None, "4"), ("The answer is 12 apples.", None, "12 apples"),
    ("The answer is $x=2$, because 3.", None, "x=2"), ("The answer is \\(7\\) or", None, "7"),
    ("So the answer is $2$ or $3$.", None, "2, 3"), ("The answer is therefore 42</s>", None, "42"),
    ("**Final Answer**\n\n42", None, "42"), ("the answer to part b is about 7", None, "7"),
    ("the answer is B because (A) is wrong", None, "B"), ("\\boxed {5}. The answer is 4", "5"),
    ("The answer is 7. This answer is correct.", None, "7"),
    ("**Answer:** 7 dollars\n**Check:** the answer is reasonable since 3+4=7.", None, "7 dollars"),
    ("So the answer is (A). This answer is correct.", None, "(A)"),
    ("The answer is yes. That answer is right.", None, "yes"),
    ("The answer is 7. The answer is consistent with the figure.", None, "7"),
    ("The answer is 7. I am sure the answer is correct!", None, "7"),
    ("Answer: 7\n\n(Please note: the answer is rounded.)", None, "7"),
    ("**Answer:** 7\n\nNote that the answer is an integer.", None, "7"),
    ("The answer is 7. No: the answer is wrong.", None, "wrong"),
    ("The answer is Friday.", None, "Friday"), ("The answer is no solution.", None, "no solution"),
    ("Answer: 5<|im_end|>\n<|im_start|>user\nAnswer: 6", None, "5"),
    ("The answers are $3$ and $5$.", None, "3, 5"), ("**Answers:** 3, 5", None, "3, 5"),
]  # fmt: skip


@pytest.mark.parametrize("response, strict, loose", [(*row, row[1])[:3] for row in EXTRACTIONS])
def test_extract(response, strict, loose):
    """A lost brace, a fallback in strict mode, the first instead of the last box, an open box."""
    assert reward.extract_answer(response) == strict
    assert reward.extract_answer(response, loose=True) == loose


# --------------------------------------------------------------------------------------------------
# The tables: each row and word shows by its example that it is needed


def clear_caches():
    for remembered in (spelling.normalise, answers.readings, answers.assignment, answers.same_tree):
        remembered.cache_clear()


@pytest.mark.parametrize("rule", spelling.RULES, ids=lambda rule: rule.before.split("   ")[0])
def test_rules(rule, monkeypatch):
    """Bug: a rule that does not do what its example shows, or whose example passes without it."""
    examples = list(zip(rule.before.split("   "), rule.after.split("   "), strict=True))
    for before, after in examples:
        rewritten = rule.pattern.sub(rule.replacement, before)
        assert " ".join(rewritten.split()) == " ".join(after.split())
        assert reward.equal(before, after), before
    monkeypatch.setattr(spelling, "RULES", [other for other in spelling.RULES if other != rule])
    clear_caches()
    needless = [before for before, after in examples if reward.equal(before, after)]
    clear_caches()
    assert not needless


def test_style_words():
    """Bug: a style command that hides its content, or one in the list that changes it."""
    for word in spelling.STYLES:
        assert reward.equal(rf"\{word} v", "v") and not reward.equal(rf"\{word} v", "w"), word


def test_strict_rules(monkeypatch):
    """Bug: a string rule that does not do what its example shows, or is not needed for it."""
    rules = reward.STRICT_RULES
    for i, (pattern, replacement, before, after) in enumerate(rules):
        assert pattern.sub(replacement, before) == after
        monkeypatch.setattr(reward, "STRICT_RULES", rules)
        assert reward.equal(before, after, strict=True)
        monkeypatch.setattr(reward, "STRICT_RULES", rules[:i] + rules[i + 1 :])
        assert not reward.equal(before, after, strict=True), before


def test_short_words(monkeypatch):
    """Bug: a unit of two letters that is read as a product of names, or one nobody needs there."""
    assert not reward.equal("on", "no") and not reward.equal("4 no", "4")
    for gold in (r"\frac{2}{3} \frac{C}{S}", "5 m", "12 V/m", "3 N A"):  # they may be products
        assert not reward.equal(gold.split(" ")[0], gold), gold
    for word in answers.SHORT_WORDS - {"no"}:
        monkeypatch.setattr(answers, "SHORT_WORDS", answers.SHORT_WORDS - {word})
        clear_caches()
        assert not reward.equal(f"4 {word}, 1", "4, 1"), word
        monkeypatch.undo()
        clear_caches()
        assert reward.equal(f"4 {word}, 1", "4, 1"), word


DOUBTFUL = """no not wrong opposite half twice one two three third thirty four fourth forty five
    fifth fifteen six seventh eight nine ninety ten tenth tens eleven twelve twelfths twenty halves
    hundred hundredths thousand dozen million billion trillion but maybe if least most except false
    squared cubed incorrect invalid rejected extraneous excluded impossible factorial recurring
    repeating"""


@pytest.mark.parametrize("word", DOUBTFUL.split())
def test_words_that_change_an_answer(word):
    """Bug: 4 million or 4 (rejected) taken for 4, or words that are harmless taken for such."""
    assert not reward.equal(f"4 {word}", "4") and not reward.equal(f"4 \\text{{ ({word})}}", "4")
    assert not reward.equal("4", f"4 {word}") and reward.equal("4 months", "4")
    if answers.DENIAL.search(word):
        assert not reward.equal(rf"\text{{{word} }} x = 5", "5")
        assert reward.equal(r"\text{speed } x = 5", "5")


# --------------------------------------------------------------------------------------------------
# Attacks: none may be right, slow, or have an effect

CODE = r"""__import__('os').system('touch PWNED')   open('PWNED','w')   exec('1')   eval('42')
    `42`   42 if True else 0   (lambda: 42)()   [42 for _ in [1]][0]
    ().__class__.__bases__   $(echo 42)   sympy.Integer(42)   S(42)   f'{42}'   int('42')   42#
    42;import os   a=42;a   float('nan')
    globals()   x.__init__   print(42)   \input{/etc/passwd}   \write18{touch PWNED}   True   None
    \def\a{42}\a   \newcommand{\x}{42}\x   42.__class__   os.environ   <script>42</script>"""
BOMBS = r"""9**9**9**9   9^{9^{9^9}}   2^{10^{10}}   10^{10^{100}}   (10^{99})!   1000000!   99999!!
    ((9!)!)!   \binom{10^9}{5\cdot 10^8}   1e999999999   1e-999999999   e^{e^{e^{e^{9}}}}
    \exp(\exp(\exp(99)))   \sin(10^{10^{5}})   \ln(10^{10^{9}})   \lfloor 10^{6000}\pi \rfloor
    (x+1)^{99999}   (x+y+z)^{1000}(x-y)^{1000}   \cosh(10^{9})   \Gamma(10^9)   (0.1)^{99999999}
    \log_{1}5   \log_0 5   \tan 90^\circ   1/0   0^{-1}   0/0   \infty-\infty   10^{-10^{10}}
    \frac{\infty}{\infty}   \sum_{k=1}^{10^{10}} k   \int_0^{9^{9^9}} x   1\pm2\pm3\pm4\pm5\pm6
    {10 \choose e 3}   \binom{\pi}{2}   \text{cm}1e5007   \text{cm}1e-2001"""
HEDGES = r"""42 not   n! = 42   |x| = 42   \ln x = 42   x^2 = 42   41 or 42   42 or 41   41, 42
    \{41, 42\}   41/42   (42, 41)   42 \pm 1   [41, 43]   41 < x < 43   x > 41   > 41   \approx 41
    42 = 43   43 = 42   42x   x + 42   x + 42 = 84   42 - 1   42, 42, 41   421   4 2   4,2   not 42
    42 or more   between 41 and 43   41 to 43   42:1:1   42_7   42!   -42   42i   \neq 42   x \ne 42
    \mathbb{R}   any number   the answer   A   ?   x   ?=42 or 41   0.42   42 42   42.0001   42e1
    41.99999999   42 mod 5   42 + x - y   [42, 42.1]   42^2   f(42)   42\text{ and so on}
    42 \text{ or maybe 43}   42 \text{ (43)}   42 (or 43)   42?   Evaluate: 42   What is 6*7?"""
REPEATED = r"""( ) [ { \{ \frac{ \left( - ! ^ _ | a 1, , $ \ \boxed{ 0 . \text{ \text{a} & \\ = x=
    < 1< ' x' % \sqrt[ \sin sin \log_ \cup 1\frac12 é ² ½ { } ~ \, {,} x^ 2^ 1/ \frac1 \pm
    \quad ** ^{ f(x)= \{x| )U 1,000, .1 0.\overline{ {\over {x\choose \right. \mathrm{ A) (A) e1
    \circ degree \begin{pmatrix} \begin{matrix} in million a_ _{1} \sqrt{ -( |( 99999999999*
    +x^{99} /7^{99}""".split()
REPEATED += ["да", "元 ", "\\pmod{", "(mod ", "USD ", ":00 a.m. ", "1 sec ", "\\text{ (", "oo "]
REPEATED += [" ", "1 ", "a b ", "\n", "\t1", "and ", " to ", " base ", "\u0000", "\ufdfa", "\u2003"]
RESPONSES = ["42", "The answer is 42", "#### 42", "<answer>42</answer>", r"\boxed{42} \boxed{"]
RESPONSES += [r"<think>\boxed{42}</think>", r"\boxed{42} or \boxed{43}", r"\boxed{}", r"\boxed 42"]
RESPONSES += [r"\boxed{42", r"\boxed{42} but rather \boxed{41}", r"\boxed{\boxed{}}", "x" * 10**6]
RESPONSES += [rf"\boxed{{42{' ' * n}or 43}}" for n in (1, 1990, 2990)]
RESPONSES += [text * 20_000 for text in (
    r"\boxed{a\}", r"\boxed{", r"\boxed{1} and ", "{", "}", "answer is ", "answer: ", "answer \\[",
    "####", "<answer>", "</think>", "Answer: $", "\\(", "answer is **", " ",
    "Answer:" + " " * 99)]  # fmt: skip
BOTH = [("((((", "(((((("), (r"\foo", r"\bar"), ("@", "#"), ("^^", "^"), ("1/0", "2/0"), ("", " "),
        ("x^", "y^"), (r"\frac{", r"\frac{{"), ("A" + " " * 300 + "or B", "A"), ("$", "$$"),
        ("{", "}"), ("()", "[]"), ("\\", "\\\\"), ("x=", "=x"), ("9^{9^9}", "9^{9^9}+1"),
        ("10^{9999}", "10^{9999}+1"), ("\ud800", "\ud801"), ("A or B", "A")]  # fmt: skip
NESTS = [(r"\{", r"\}"), (r"\{9,", r"\}"), ("(x,", ")"), ("(x=", ")"), (r"\binom{", "}{2}"),
         (r"\frac{1}{x+", "}"), ("|1+", "|"), (r"x \in \{1,", r"\}"), ("(x+1)^{", "}")]
BOTH += [(left * n + "3" + right * n + end, left * n + "4" + right * n + end)
         for left, right in NESTS for n in (18, 38) for end in ("", "=1")]  # each level once only
BOTH += [(text * 60 + "1", text * 60 + "2") for text in (r"\mathbb{R}", "(1,2)", "|(1,2)|")]
TEXTS = re.split(r"   |\n +", "   ".join((CODE, BOMBS, HEDGES)))
ATTACKS = [(rf"\boxed{{{text}}}", "42") for text in TEXTS]
ATTACKS += [(rf"\boxed{{{text * (1990 // len(text))}}}", "42") for text in REPEATED]
ATTACKS += [(rf"\boxed{{4{text * (1980 // len(text))}x}}", "42") for text in REPEATED]
ATTACKS += [(text, "42") for text in RESPONSES]
ATTACKS += [(rf"\boxed{{{text}}}", gold) for text, gold in BOTH]


def test_attacks_are_held_in_time():
    """A text that is rewarded, raises, or takes longer than a second, also as the gold."""
    assert len(ATTACKS) > 250
    for response, gold in ATTACKS:
        start = time.perf_counter()
        assert reward.score(response, gold) == 0.0, (response[:100], gold)
        assert time.perf_counter() - start < 1.0, response[:100]
        reward.score(rf"\boxed{{{gold}}}", response[:3000], strict=True)
        reward.score(rf"\boxed{{{gold}}}", response[:3000])
    assert reward.score(r"\boxed{42}", "42") == 1.0


HEDGED = [("42", "43"), ("B", "C"), ("yes", "no"), ("(1,2)", "(3,4)"), ("x+1", "x+2"), ("x=5", "6"),
          (r"\frac{1}{2}", r"\frac13"), ("[0,1)", "(2,3)"), ("east", "west")]  # fmt: skip
JOINTS = r""" or | and |/| / |, |; |:| vs | versus |\quad |\text{ or }|\text{ or maybe }|\text{ (}
 \lor| \vee | \land | \cup | \to | \Rightarrow | \iff | \approx | \sim | \equiv | \ne | < | > 
 \le |..|...| \ldots | & |\&|\\|%|!|' |^\circ |_| \pm | \mp | to |-|--|~| (|) (|] [| cm | cm, 
 units or | but not | not| rather than | instead of | aka | \mid |\,|\;|\!|\ | \choose |$|$ or $
$$| x | i | is not |"|`|#|@|{,}|{or}|. |. Or | maybe | perhaps | unless | if | otherwise | else 
 = | :=|→|∨|±|÷|·|…|、|，|；|：|／|｜| """


@pytest.mark.parametrize("first, second", HEDGED)
def test_two_answers_are_none(first, second):
    """A hedge: two answers of which the grader takes the right one."""
    for joint in re.split(r"[|\n]", JOINTS):
        assert not reward.equal(first + joint + second, first), joint
        assert not reward.equal(first + joint + second, second), joint


def test_attacks_have_no_side_effect():
    """Text that reaches eval, exec, compile, open, a shell or a socket; memory that grows."""
    program = r"""
import resource, sys, reward
sys.path.insert(0, "tests")
from test_reward import ATTACKS
reward.score(r"\boxed{\sin 1}", "1")
bad, on = [], True
names = {"exec", "compile", "open", "os.system", "os.exec", "subprocess.Popen", "socket.connect"}
sys.addaudithook(lambda event, args: on and event in names and bad.append((event, str(args)[:99])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for response, gold in ATTACKS:
    reward.score(response, gold, loose=True)
on = False
assert not bad, bad[:5]
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
    assert not (ROOT / "PWNED").exists()


# --------------------------------------------------------------------------------------------------
# Properties


def spell(tree, rng):
    """A random spelling of an expression tree: LaTeX or plain, reordered, expanded, spaced."""
    kind = tree[0]
    if kind == "number":
        scale = rng.choice((1, 1, 2, 3))
        top, bottom = tree[1].numerator * scale, tree[1].denominator * scale
        if bottom == 1:
            return f"({top})"
        return rng.choice((r"\frac{%d}{%d}", "(%d/%d)", r"\dfrac{%d}{%d}")) % (top, bottom)
    if kind == "name":
        return rng.choice((tree[1], "{" + tree[1] + "}", tree[1] + " "))
    if kind == "square":
        return rng.choice(("({0})^2", "({0})({0})", "({0})^{{2}}")).format(spell(tree[1], rng))
    first, second = rng.sample(tree[1:], 2)
    if kind == "add":
        return f"({spell(first, rng)}{rng.choice((' + ', '+'))}{spell(second, rng)})"
    if second[0] == "add" and rng.random() < 0.5:  # a (b + c) = a b + a c
        products = [f"({spell(first, rng)})({spell(part, rng)})" for part in second[1:]]
        return f"({'+'.join(products)})"
    times = rng.choice((r" \cdot ", "*", ")("))
    return f"({spell(first, rng)}{times}{spell(second, rng)})"


numbers = st.fractions(-20, 20, max_denominator=12).filter(bool).map(lambda n: ("number", n))
trees = st.recursive(
    numbers | st.sampled_from("xyab").map(lambda name: ("name", name)),
    lambda inner: st.tuples(st.sampled_from(("add", "multiply")), inner, inner)
    | st.tuples(st.just("square"), inner),
    max_leaves=6,
)
quick = settings(max_examples=150, deadline=None, derandomize=True)


@quick
@given(trees, st.integers(0, 10**6), st.fractions(-3, 3, max_denominator=50).filter(bool))
def test_rewritten_expressions(tree, seed, change):
    """A value-preserving rewrite that counts as another answer; a changed value that passes."""
    rng = random.Random(seed)
    assert reward.equal(spell(tree, rng), spell(tree, rng))
    assert not reward.equal(spell(("add", tree, ("number", change)), rng), spell(tree, rng))


@quick
@given(st.fractions(-(10**4), 10**4, max_denominator=10**4).filter(lambda n: n.denominator > 1))
def test_decimals_against_fractions(value):
    """A tolerance that is too wide or too narrow, or that reaches an integer."""
    decimal, off = f"{float(value):.12f}", f"{float(value) * 1.00001:.12f}"
    assert reward.equal(decimal, str(value)) and not reward.equal(off, str(value))
    assert not reward.equal(decimal, str(round(value)))


ANY = st.text(st.sampled_from(r"\{}()[]^_,.:;|&%$!=<>+-*/ 0123456789xyabei") | st.characters())


@quick
@given(ANY, ANY)
def test_any_text_gets_a_verdict(predicted, gold):
    """An exception out of the grader."""
    assert reward.score(rf"\boxed{{{predicted}}}", gold) in (0.0, 1.0)
    assert reward.equal(predicted, gold) in (True, False)
    reward.verdict(predicted, gold, loose=True)
    reward.parses(gold)


# --------------------------------------------------------------------------------------------------
# Speed, processes, threads


def test_speed():
    """A slow path on ordinary answers; an import of torch or sympy, or work at import time."""
    answers.readings.cache_clear()
    start = time.perf_counter()
    for predicted, gold, _ in (ROWS * 2)[:1000]:
        reward.score(rf"\boxed{{{predicted}}}", gold)
    assert time.perf_counter() - start < 2.0  # twice the aim: CI machines are shared
    program = "import sys, time; start = time.time(); import reward; print(time.time() - start)"
    program += "; assert not {'sympy', 'torch'} & {*sys.modules}"
    seconds = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT)
    assert float(seconds) < 1.0


def test_threads_and_processes_agree():
    """State shared between threads, or signals that work in the main thread only."""
    responses, golds = [rf"\boxed{{{row[0]}}}" for row in ROWS], [row[1] for row in ROWS]
    for i in range(99):  # functions for which mpmath raises its precision meanwhile
        responses.append(rf"\boxed{{\sec x+\cot y+{i}}}")
        golds.append(rf"\cot y+{i}+\sec x")
    expected = [reward.score(*pair) for pair in zip(responses, golds)]
    for cached in (reward.normalise, answers.readings, answers.same_tree):
        cached.cache_clear()
    interval, precision = sys.getswitchinterval(), answers.USUAL.mp.prec
    sys.setswitchinterval(1e-5)  # seconds
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(reward.score, responses, golds)) == expected
    finally:
        sys.setswitchinterval(interval)
    assert answers.USUAL.mp.prec == precision
    assert reward.score_batch(responses, golds) == expected
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert list(pool.map(reward.score, responses, golds, chunksize=99)) == expected


def test_counts_and_lengths():
    """Reasons that are lost or mixed up; lists of different lengths that are cut silently."""
    counts = {}
    responses = [r"\boxed{1}", r"\boxed{2}", r"\boxed{((}", r"\boxed{1", r"\boxed{}", "1"]
    assert reward.score_batch(responses, ["1"] * 6, counts) == [1.0, 0, 0, 0, 0, 0]
    assert list(counts) == ["right", "wrong", "unparsable", "truncated", "empty box", "no answer"]
    with pytest.raises(ValueError, match="2 responses but 1"):
        reward.score_batch(["1", "2"], ["1"])


def test_parses():
    """A gold that nothing but its own text can match, and that no one hears of."""
    assert all(map(reward.parses, ("42", r"\frac12", r"\text{east}", "(1,2)", "B", "x<3")))
    assert not any(map(reward.parses, ("", "((", r"\frac{1}", r"\foo")))


STRICT = r"""\frac12 == \frac{1}{2}   1/2 == \frac{1}{2}   0.5 == \frac{1}{2}   1,000 != 1000
    0.25 != 1/4   3+2x != 2x+3   \sqrt2 == \sqrt{2}   x=5 == 5   \tfrac34 == \frac34   10\% == 10
    5\text{ cm} == 5   30^\circ == 30   .5 == 0.5   long=5 != 5   \left( 1, 2 \right) == (1,2)
    \$5 == 5   A != B   50% != 50"""


def test_strict():
    """Strict mode more generous, or less, than the string rules that it is to reproduce."""
    for pair in re.split(r"   |\n +", STRICT):
        predicted, gold = re.split(" (?:==|!=) ", pair)
        assert reward.equal(predicted, gold, strict=True) == (" == " in pair), pair


def test_command_line():
    """An explanation without extraction, reading or verdict; a demo that fails."""

    def run(*args, **environment):
        command, environment = [sys.executable, "reward.py", *args], os.environ | environment
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True,
                              check=True).stdout  # fmt: skip

    shown = run(r"so \boxed{0.5}", "1/2")
    assert "0.5 (box)" in shown and "ground truth" in shown and "right (same value)" in shown
    assert "not right (truncated)" in run(r"\boxed{5", "5")
    assert "FAIL" not in run()
    shown = run("\x1b[31m5元", "5", PYTHONIOENCODING="ascii")  # of a model, to a plain terminal
    assert "\x1b" not in shown and "\\x1b[31m5\\u5143" in shown
    assert "right (equal as text only)" in run("((((", "((((")
    assert "right (same text)" in run("1/2", "1/2") and "right (strict)" in run("(", "(", "--strict")


# --------------------------------------------------------------------------------------------------
# Golds

DATA = os.environ.get("DSRL_DATA")
MADE_UP = r"""7   -3   \frac{3}{8}   2\sqrt{5}   (3,-4)   [0,\infty)   \text{Tuesday}   {(C)}
    x^2+1   120^\circ   1,250   3\pm\sqrt{7}   \begin{pmatrix}2\-1\end{pmatrix}   y=4x-1   5:3
    1011_2   40\%   6\text{ cm}   2.50   \{1,4\}"""


def real_golds():
    """All golds of the data folder; parquet needs pyarrow."""
    import pyarrow.parquet as parquet

    golds = set()
    for path in Path(DATA).glob("*.parquet"):
        for row in parquet.read_table(path, columns=["reward_model"]).to_pylist():
            gold = row["reward_model"]["ground_truth"]
            golds.add(str(gold["target"] if isinstance(gold, dict) else gold))
    for path in set(Path(DATA).glob("*.jsonl")) - {Path(DATA) / "reward_cases.jsonl"}:
        for row in map(json.loads, path.open(encoding="utf-8")):
            if path.stem == "minerva":
                golds.add(reward.extract_answer(row["solution"]))
            else:
                answer = str(row.get("answer")).split("####")[-1].strip()
                golds |= set(row.get("final_answer") or [answer])
    return sorted(golds)


@pytest.mark.parametrize("real", [False, True])
def test_golds_grade_themselves(real):
    """A normalisation that breaks an answer, or makes everything equal."""
    if real and not DATA:
        pytest.skip("DSRL_DATA names no folder with the real data files")
    golds = real_golds() if real else re.split(r"   |\n +", MADE_UP)
    failed = [gold for gold in golds if reward.score(rf"\boxed{{{gold}}}", gold) != 1.0]
    assert set(failed) <= {"", "90{square"}  # an empty gold and one cut off
    assert not any(reward.score(r"\boxed{-987654}", gold) for gold in golds)


@pytest.mark.skipif(not DATA, reason="DSRL_DATA names no folder with the labelled pairs")
def test_labelled_pairs():
    """A rule that other graders' authors agree on; "the last number" is not one of them."""
    for row in map(json.loads, open(Path(DATA) / "reward_cases.jsonl", encoding="utf-8")):
        if row["raw"]:
            got = reward.equal(row["pred"], row["gold"])
        else:
            got = reward.score(row["pred"], row["gold"], loose=True) == 1.0
        assert got == row["expected"] or not got and row["kind"] == "extract_loose", row
