"""Sentences in nine languages, written for the tests: half as one reasons about a sum, half about anything."""

SENTENCES = {
    "en": """
First we add the two numbers, because the brackets come before everything else.
Wait, that cannot be right, since the train left an hour later than the bus.
Let me check the result once more by working backwards from the end.
If every box holds six eggs, then the farmer needs at least nine boxes.
So the remaining distance is half of what we travelled before lunch.
We know that the sum of the angles in a triangle is always the same.
Multiplying both sides by three gives an equation that is much easier to solve.
Therefore the smallest possible answer must be an even number.
There are more boys than girls in the class, so the teacher is mistaken.
Hmm, maybe I should read the question again before I write down the solution.
The old woman next door sells fresh bread and cheese on the market every Saturday.
Nobody knew why the lights in the library had gone out so early.
My brother would rather walk through the rain than wait for a taxi.
The river was so cold that the children only dared to put their feet in.
She closed the window, made a cup of tea and sat down with a book.
After the storm, the fishermen spent three days repairing their nets.
Our neighbours bought a small house near the sea last summer.
The doctor told him to rest and to drink plenty of water.
It takes a long time to learn how to play the violin well.
Please leave your shoes at the door and come into the kitchen.
""",
    "es": """
Primero sumamos los dos números, porque los paréntesis van antes que todo lo demás.
Espera, eso no puede ser correcto, ya que el tren salió una hora más tarde que el autobús.
Voy a comprobar el resultado otra vez empezando desde el final.
Si en cada caja caben seis huevos, entonces el granjero necesita por lo menos nueve cajas.
Así que la distancia que queda es la mitad de lo que recorrimos antes de comer.
Sabemos que la suma de los ángulos de un triángulo es siempre la misma.
Al multiplicar ambos lados por tres obtenemos una ecuación mucho más fácil de resolver.
Por lo tanto, la respuesta más pequeña posible tiene que ser un número par.
Hay más niños que niñas en la clase, de modo que el maestro se equivoca.
Quizás debería leer la pregunta de nuevo antes de escribir la solución.
La anciana de al lado vende pan recién hecho y queso en el mercado todos los sábados.
Nadie sabía por qué las luces de la biblioteca se habían apagado tan temprano.
Mi hermano prefiere caminar bajo la lluvia antes que esperar un taxi.
El río estaba tan frío que los niños solo se atrevieron a meter los pies.
Ella cerró la ventana, preparó una taza de té y se sentó con un libro.
Después de la tormenta, los pescadores pasaron tres días reparando sus redes.
Nuestros vecinos compraron una casa pequeña cerca del mar el verano pasado.
El médico le dijo que descansara y que bebiera mucha agua.
Se tarda mucho tiempo en aprender a tocar bien el violín.
Por favor, deja los zapatos en la puerta y pasa a la cocina.
""",
    "fr": """
D'abord nous additionnons les deux nombres, car les parenthèses passent avant tout le reste.
Attends, ce n'est pas possible, puisque le train est parti une heure plus tard que le bus.
Je vais vérifier le résultat encore une fois en partant de la fin.
Si chaque boîte contient six œufs, alors le fermier a besoin d'au moins neuf boîtes.
Donc la distance qui reste est la moitié de ce que nous avons parcouru avant le déjeuner.
Nous savons que la somme des angles d'un triangle est toujours la même.
En multipliant les deux côtés par trois, on obtient une équation bien plus facile à résoudre.
Par conséquent, la plus petite réponse possible doit être un nombre pair.
Il y a plus de garçons que de filles dans la classe, donc le professeur se trompe.
Je devrais peut-être relire la question avant d'écrire la solution.
La vieille dame d'à côté vend du pain frais et du fromage au marché tous les samedis.
Personne ne savait pourquoi les lumières de la bibliothèque s'étaient éteintes si tôt.
Mon frère aime mieux marcher sous la pluie que d'attendre un taxi.
La rivière était si froide que les enfants n'osaient y mettre que les pieds.
Elle a fermé la fenêtre, s'est fait une tasse de thé et s'est assise avec un livre.
Après la tempête, les pêcheurs ont passé trois jours à réparer leurs filets.
Nos voisins ont acheté une petite maison près de la mer l'été dernier.
Le médecin lui a dit de se reposer et de boire beaucoup d'eau.
Il faut longtemps pour apprendre à bien jouer du violon.
Laissez vos chaussures à la porte, s'il vous plaît, et entrez dans la cuisine.
""",
    "de": """
Zuerst addieren wir die beiden Zahlen, denn die Klammern kommen vor allem anderen.
Moment, das kann nicht stimmen, weil der Zug eine Stunde später abgefahren ist als der Bus.
Ich prüfe das Ergebnis noch einmal, indem ich vom Ende her rechne.
Wenn in jede Schachtel sechs Eier passen, braucht der Bauer mindestens neun Schachteln.
Also ist die verbleibende Strecke halb so lang wie die, die wir vor dem Mittagessen gefahren sind.
Wir wissen, dass die Summe der Winkel in einem Dreieck immer gleich ist.
Multipliziert man beide Seiten mit drei, so erhält man eine viel einfachere Gleichung.
Deshalb muss die kleinste mögliche Antwort eine gerade Zahl sein.
In der Klasse gibt es mehr Jungen als Mädchen, also irrt sich der Lehrer.
Vielleicht sollte ich die Frage noch einmal lesen, bevor ich die Lösung aufschreibe.
Die alte Frau von nebenan verkauft jeden Samstag frisches Brot und Käse auf dem Markt.
Niemand wusste, warum die Lichter in der Bücherei so früh ausgegangen waren.
Mein Bruder geht lieber durch den Regen, als auf ein Taxi zu warten.
Der Fluss war so kalt, dass die Kinder nur die Füße hineinhielten.
Sie schloss das Fenster, machte sich eine Tasse Tee und setzte sich mit einem Buch hin.
Nach dem Sturm flickten die Fischer drei Tage lang ihre Netze.
Unsere Nachbarn haben letzten Sommer ein kleines Haus am Meer gekauft.
Der Arzt sagte ihm, er solle sich ausruhen und viel Wasser trinken.
Es dauert lange, bis man gut Geige spielen kann.
Bitte lassen Sie Ihre Schuhe an der Tür stehen und kommen Sie in die Küche.
""",
    "zh": """
首先我们把两个数加起来，因为括号要先算。
等一下，这不可能是对的，因为火车比公共汽车晚出发一个小时。
让我从结果倒着再检查一遍。
如果每个盒子装六个鸡蛋，那么农夫至少需要九个盒子。
所以剩下的路程是我们午饭前走过的一半。
我们知道三角形的内角和总是一样的。
两边同时乘以三，就得到一个更容易解的方程。
因此最小的可能答案一定是偶数。
班上的男孩比女孩多，所以老师说错了。
也许我应该先把题目再读一遍，然后再写出答案。
隔壁的老太太每个星期六都在市场上卖新鲜的面包和奶酪。
没有人知道图书馆的灯为什么这么早就灭了。
我弟弟宁愿冒雨走路，也不愿意等出租车。
河水太冷了，孩子们只敢把脚伸进去。
她关上窗户，泡了一杯茶，拿着一本书坐了下来。
暴风雨过后，渔民们花了三天时间修补渔网。
去年夏天，我们的邻居在海边买了一座小房子。
医生告诉他要多休息，多喝水。
学会拉好小提琴需要很长时间。
请把鞋子放在门口，然后到厨房里来。
""",
    "ja": """
まず二つの数を足します。括弧の中を先に計算するからです。
待って、電車はバスより一時間遅く出発したので、それは正しくないはずです。
結果をもう一度、最後から逆に確かめてみます。
一つの箱に卵が六個入るなら、農家には少なくとも九箱が必要です。
ですから残りの距離は、昼食の前に進んだ距離の半分です。
三角形の角の和はいつも同じだと分かっています。
両辺に三を掛けると、もっと解きやすい式になります。
したがって、考えられる一番小さい答えは偶数でなければなりません。
クラスには女の子より男の子の方が多いので、先生は間違っています。
答えを書く前に、もう一度問題を読んだ方がいいかもしれません。
隣のおばあさんは毎週土曜日に市場で焼きたてのパンとチーズを売っています。
図書館の明かりがなぜそんなに早く消えたのか、誰も知りませんでした。
弟はタクシーを待つより、雨の中を歩く方が好きです。
川の水はとても冷たくて、子どもたちは足を入れるのがやっとでした。
彼女は窓を閉め、お茶をいれて、本を手に座りました。
嵐の後、漁師たちは三日かけて網を直しました。
隣の家族は去年の夏に海の近くの小さな家を買いました。
医者は彼に、よく休んで水をたくさん飲むように言いました。
バイオリンが上手に弾けるようになるには長い時間がかかります。
靴は玄関に置いて、台所へ来てください。
""",
    "ko": """
먼저 두 수를 더합니다. 괄호 안을 먼저 계산해야 하기 때문입니다.
잠깐, 기차가 버스보다 한 시간 늦게 출발했으니 그것은 맞을 수 없습니다.
끝에서부터 거꾸로 계산하여 결과를 다시 확인해 보겠습니다.
상자마다 달걀이 여섯 개씩 들어간다면 농부는 적어도 상자 아홉 개가 필요합니다.
그래서 남은 거리는 점심 전에 간 거리의 절반입니다.
삼각형의 세 각의 합은 항상 같다는 것을 알고 있습니다.
양쪽에 삼을 곱하면 훨씬 풀기 쉬운 식이 됩니다.
따라서 가능한 가장 작은 답은 짝수여야 합니다.
반에 여학생보다 남학생이 더 많으므로 선생님이 틀렸습니다.
답을 쓰기 전에 문제를 다시 읽어 보는 것이 좋겠습니다.
옆집 할머니는 토요일마다 시장에서 갓 구운 빵과 치즈를 팝니다.
도서관의 불이 왜 그렇게 일찍 꺼졌는지 아무도 몰랐습니다.
동생은 택시를 기다리느니 차라리 빗속을 걷겠다고 합니다.
강물이 너무 차가워서 아이들은 발만 겨우 담갔습니다.
그녀는 창문을 닫고 차를 한 잔 끓여 책을 들고 앉았습니다.
폭풍이 지나간 뒤 어부들은 사흘 동안 그물을 고쳤습니다.
이웃집은 지난여름 바닷가 근처에 작은 집을 샀습니다.
의사는 그에게 푹 쉬고 물을 많이 마시라고 말했습니다.
바이올린을 잘 켜게 되기까지는 오랜 시간이 걸립니다.
신발은 문 앞에 벗어 두고 부엌으로 들어오세요.
""",
    "ru": """
Сначала сложим два числа, потому что скобки идут прежде всего остального.
Подожди, это не может быть верно, ведь поезд ушёл на час позже автобуса.
Проверю результат ещё раз, начиная с конца.
Если в каждую коробку входит шесть яиц, то фермеру нужно не меньше девяти коробок.
Значит, оставшееся расстояние равно половине того, что мы прошли до обеда.
Мы знаем, что сумма углов треугольника всегда одинакова.
Умножив обе части на три, получаем уравнение, которое гораздо легче решить.
Следовательно, наименьший возможный ответ должен быть чётным числом.
В классе мальчиков больше, чем девочек, поэтому учитель ошибается.
Пожалуй, мне стоит ещё раз прочитать вопрос, прежде чем записать решение.
Старушка по соседству каждую субботу продаёт на рынке свежий хлеб и сыр.
Никто не знал, почему свет в библиотеке погас так рано.
Мой брат скорее пойдёт под дождём, чем станет ждать такси.
Река была такой холодной, что дети решились опустить в неё только ноги.
Она закрыла окно, заварила чашку чая и села с книгой.
После бури рыбаки три дня чинили свои сети.
Прошлым летом наши соседи купили маленький дом у моря.
Врач велел ему отдыхать и пить много воды.
Чтобы хорошо играть на скрипке, нужно долго учиться.
Пожалуйста, оставьте обувь у двери и проходите на кухню.
""",
    "ar": """
أولا نجمع العددين لأن الأقواس تأتي قبل كل شيء آخر.
انتظر، هذا لا يمكن أن يكون صحيحا لأن القطار غادر بعد الحافلة بساعة.
دعني أتحقق من النتيجة مرة أخرى بدءا من النهاية.
إذا كان كل صندوق يتسع لست بيضات فإن المزارع يحتاج إلى تسعة صناديق على الأقل.
إذن المسافة الباقية هي نصف ما قطعناه قبل الغداء.
نعلم أن مجموع زوايا المثلث هو نفسه دائما.
بضرب الطرفين في ثلاثة نحصل على معادلة أسهل بكثير.
لذلك يجب أن يكون أصغر جواب ممكن عددا زوجيا.
عدد الأولاد في الصف أكبر من عدد البنات، إذن المعلم مخطئ.
ربما ينبغي أن أقرأ السؤال مرة أخرى قبل أن أكتب الحل.
تبيع السيدة العجوز المجاورة الخبز الطازج والجبن في السوق كل يوم سبت.
لم يعرف أحد لماذا انطفأت أنوار المكتبة في وقت مبكر.
يفضل أخي أن يمشي تحت المطر على أن ينتظر سيارة أجرة.
كان النهر باردا جدا فلم يضع الأطفال فيه إلا أقدامهم.
أغلقت النافذة وأعدت كوبا من الشاي وجلست مع كتاب.
بعد العاصفة قضى الصيادون ثلاثة أيام في إصلاح شباكهم.
اشترى جيراننا بيتا صغيرا قرب البحر في الصيف الماضي.
قال له الطبيب أن يستريح وأن يشرب الكثير من الماء.
يستغرق تعلم العزف الجيد على الكمان وقتا طويلا.
من فضلك اترك حذاءك عند الباب وادخل إلى المطبخ.
""",
}
SENTENCES = {language: text.strip().split("\n") for language, text in SENTENCES.items()}
