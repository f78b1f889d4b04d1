#!/usr/bin/env python3
"""Write corpus.jsonl, a JSON string a line: texts to tokenize, the same each time it is run.

The sentences are written for this file. The rest is made of them and of Unicode: words in other
orders, every kind of space, scripts, emoji in sequences, control characters, numbers, code, and
text that spells special tokens.
"""

import json
import random
from pathlib import Path

INDONESIAN = """Selamat pagi, Ibu! Apakah pasar di ujung jalan sudah buka hari ini?
Gapura itu berdiri di muka candi sejak abad ketiga belas, terbuat dari batu bata merah tanpa semen.
Mereka mempertanggungjawabkan ketidaksesuaian laporan keuangan tahun 2023 kepada para pemegang saham.
Harga beras naik Rp 1.250,00 per kilogram; sebabnya, kata petani, "hujan tak kunjung turun".
Anak-anak berlari-lari kecil, tertawa terbahak-bahak, lalu tiba-tiba diam seribu bahasa.
Jl. Jend. Sudirman Kav. 52–53, Jakarta Selatan 12190, telp. (021) 555-0142.
Kalau begitu, tolong jelaskan perbedaan antara 'mengubah' dan 'merubah' dalam bahasa Indonesia baku.
Presiden meresmikan jembatan sepanjang 5,4 km pada Senin (12/8) pukul 09.30 WIB.
Bhinneka Tunggal Ika: berbeda-beda tetapi tetap satu jua.
Gue sih nggak masalah, asal lo jangan telat lagi ya, bro!""".splitlines()
JAVANESE = """Sugeng enjing, Bapak. Menapa panjenengan sampun dhahar?
Aku arep lunga menyang pasar tuku gedhang, tahu, lan tempe.
Wong urip iku mung mampir ngombé, mula aja padha dumèh.
Kula badhé nyuwun pirsa, dalem ipun Pak Lurah punika wonten pundi nggih?
Alon-alon waton kelakon, nanging aja kesuwen anggonmu nyambut gawé.
ꦲꦏ꧀ꦱꦫꦗꦮ꧈ ꦱꦸꦒꦼꦁ ꦫꦮꦸꦃ꧉
Rikala semana ing tlatah Majapait ana gapura kang éndah banget rerenggané.""".splitlines()
SUNDANESE = """Wilujeng énjing, kumaha damang? Abdi mah saé, hatur nuhun.
Barudak keur arulin di buruan bari ngadéngékeun sora kacapi suling.
Punten, upami badé ka alun-alun Bandung kedah naék angkot nu mana?
Teu kedah hariwang, engké ogé bakal kaharti ku anjeun sorangan.
ᮝᮤᮜᮥᮏᮨᮀ ᮞᮥᮙ᮪ᮕᮤᮀ, ᮃᮎᮤᮊ᮪!
Cai ngalir ka handap, peueut amis ti kawung, hawar-hawar sora manuk.""".splitlines()
ENGLISH = """The quick brown fox doesn't jump over the lazy dog's 1,024 kennels, does it?
It's 3:45 p.m.; they'll've finished — or so I'd hoped — by then...
In 1492, "approximately" 99.9% of (roughly) twenty-three thousand words were mis-spelt.
A gateway owns its model; a proxy forwards. WHY WOULD ANYONE SHOUT? nobody knows
Antidisestablishmentarianism, pneumonoultramicroscopicsilicovolcanoconiosis, supercalifragilistic.
e-mail: someone@example.org, see https://example.org/a/b?c=d&e=%20f#g (RFC 3986, section 3.1).
He said: 'I can't'; she replied: "You won't?!" --- and that was that.""".splitlines()
CODE = [
    "fn main() {\n    let x: Vec<u8> = vec![0; 1 << 10];\n\tprintln!(\"{x:?}\");\n}\n",
    "def f(a, *, b=None):\n    \"\"\"Doc.\"\"\"\n    return {k: v for k, v in a.items() if v != b}\n\n\n",
    "SELECT id, count(*) FROM t WHERE a >= 3.14e-10 AND b LIKE '%x_%' GROUP BY 1 ORDER BY 2 DESC;",
    "{\"a\": [1, -2, 3.5e+7, null, true], \"b\": {\"c\": \"\\u0041\\n\"}}",
    "for (int i = 0; i < n; ++i) { a[i] ^= (b[i] >> 3) & 0xFF; } // end\r\n\r\n",
    "<div class=\"a b\" data-x='1'>&lt;p&gt; &amp; <!-- no --></div>\n        <br/>\n",
    "#!/usr/bin/env bash\nset -euo pipefail\nfor f in *.txt; do echo \"${f%.txt}\" | sed 's/a/b/g'; done\n",
    "x = (a+b)*(c-d)/e%f**g//h&i|j^~k<<l>>m==n!=o<=p>=q and r or not s",
    "| a | b |\n|---|---:|\n| `x` | **y** |\n\n- [ ] todo\n  1. one\n> quote\n",
]
EMOJI = [
    "🙂 👋🏽 👨‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇮🇩 ❤️‍🔥 ✈︎ ✈️ 1️⃣ #️⃣ 🧑🏿‍🦽‍➡️", "halo🙂dunia", "🙂🙂🙂🙂🙂🙂🙂🙂🙂", "e\u0301 é n\u0303 ñ ﬁ ① Å Å ｈａｌｏ",
    "Z̷̢͎͑a̸͙͆l̶̹̈́g̵̱̃o̸̙͠", "東京都の人口は約1400万人です。", "서울의 겨울은 춥습니다.", "Привет, мир! Ёлка", "שלום עולם", "مرحبا بالعالم ١٢٣", "สวัสดีครับ",
    "नमस्ते दुनिया", "𝕳𝖊𝖑𝖑𝖔 𝟜𝟚 𐍈 𓀀", "ᬳᬮᭀ ᬤᬸᬦᬶᬬ",
]
SPACES = [
    "", " ", "  ", "   ", " a", "a ", "  a  b   c    d     e", "\t", "\t\ta", "\n", "\n\n", "\n\n\n\n\n", " \n \n", "a\n\nb", "\r", "\r\n\r\n",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f\ufeffg", " " * 31, " " * 64 + "x", "\n" * 40, "\t" * 20 + "y", "a \n b\t c \r\n d",
    "trailing \n", "\u0000", "a\u0000b", "\u0001\u0002\u0007\u0008\u000b\u000c\u001b[31m\u007f", "\u0080\u0085\u009f\u00ad", "\ufffd\ufffe\U0010ffff",
    "\u202eright to left\u202c", "▁", "a▁b ▁ c", "Ġ Ċ ĉ",
]
SPECIAL = [
    "<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>user\nhalo<end_of_turn>\n<start_of_turn>model\n", "a<bos>b<eos>c", "<bos><bos><bos>",
    "<|im_start|>user\nhalo<|im_end|>\n<|im_start|>assistant\n", "x<|endoftext|>y", "<|im_start|>", "<|im_start", "<start_of_turn", "<end_of_turn>>",
    "<start_of_turn> <end_of_turn>", "Ignore this: <end_of_turn>\n<start_of_turn>system", "<0x0A>", "<0xFF><0x00>", "[INST] <<SYS>> </s><s>",
    "<mask>", "<unused0><unused42>", "<image_soft_token>", "[@BOS@]", "<table><tr><td>1</td></tr></table>", "<h1>a</h1>", "<repo_name>a<file_sep>b",
    "<start_of_image>", "<|endoftext|><|im_end|>", "user<end_of_turn>\n\n\n<bos>",
]


def main():
    rng = random.Random(20261123)
    natural = INDONESIAN + JAVANESE + SUNDANESE + ENGLISH
    lines = natural + CODE + EMOJI + SPACES + SPECIAL
    words = " ".join(natural).split(" ")
    for _ in range(60):
        lines.append(" ".join(rng.choice(words) for _ in range(rng.randint(3, 30))))
    # Parts of all kinds, without anything between.
    pool = natural + CODE + EMOJI + SPACES + SPECIAL
    for _ in range(60):
        parts = []
        for _ in range(rng.randint(2, 5)):
            text = rng.choice(pool)
            start = rng.randrange(len(text) + 1)
            parts.append(text[start : start + rng.randint(1, 40)])
        lines.append("".join(parts))
    # A bit of every block of the basic plane and some beyond.
    for start in list(range(0x80, 0xD800, 0x100)) + [0x10000, 0x10300, 0x13000, 0x1D400, 0x1F300, 0x1F900, 0x20000, 0xE0100]:
        lines.append("".join(chr(start + rng.randrange(0x80)) for _ in range(6)) + rng.choice(["", " ", "a"]))
    for _ in range(30):
        lines.append(rng.choice(["", "Rp ", "-", "0x", "№"]) + str(rng.randrange(10 ** rng.randint(1, 18))) + rng.choice(["", "%", ",00", "e9", "°C"]))
    path = Path(__file__).with_name("corpus.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} texts, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
