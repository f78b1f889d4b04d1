"""Twenty prompts in the languages and shapes that the product sees."""

PROMPTS = [
    # English
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived an old fisherman who",
    "Photosynthesis is the process by which green plants use sunlight to",
    "Dear customer,\n\nThank you for your order. We are sorry to tell you that",
    "Q: Why is the sky blue?\nA:",
    "To make a good cup of coffee you need three things: fresh beans, clean water and",
    # Indonesian
    "Ibu kota Indonesia adalah Jakarta, kota terbesar di negara ini. Kota lain yang besar adalah",
    "Pada suatu hari, seekor kancil berjalan di tepi sungai. Ia melihat buaya yang",
    "Cara membuat nasi goreng: siapkan nasi putih, bawang merah, bawang putih, cabai, kecap manis, lalu",
    "Gunung Merapi adalah salah satu gunung berapi paling aktif di Indonesia. Gunung ini terletak di",
    "Selamat pagi, Bapak dan Ibu. Terima kasih sudah datang ke pertemuan hari ini. Kita akan membahas",
    # Javanese
    "Sugeng enjing, kula badhe tindak dhateng peken kangge tumbas",
    "Kutha Yogyakarta iku kutha budaya lan pariwisata. Ing kana ana",
    "Basa Jawa iku basa sing dienggo wong Jawa ing pulo Jawa, utamane ing",
    # Code
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    if n < 2:\n        return n\n    return",
    "fn main() {\n    let numbers = vec![1, 2, 3, 4];\n    let total: i32 = numbers.iter().",
    "SELECT customer_id, SUM(amount) AS total FROM orders WHERE created_at >= '2024-01-01' GROUP BY",
    # Numbers
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55,",
    "2024-01-01: 12.50\n2024-01-02: 13.75\n2024-01-03: 11.20\n2024-01-04:",
    # Longer than Gemma 3's window of 512 tokens, so that windowed layers forget its beginning.
    "\n".join(
        f"{day}. Hari ke-{day}: the warehouse received {day * 37 % 101} boxes and sent {day * 53 % 89} boxes;"
        f" sisa stok {day * 61 % 97}."
        for day in range(1, 25)
    )
    + "\n25. Hari ke-25: the warehouse received",
]
